/// The rules of evaluation and generation requests: limits, defaults, and the data's answers.
#pragma once

#include <filesystem>

#include "common/status.h"
#include "sbora/v1/dataset.pb.h"
#include "sbora/v1/evaluation.pb.h"

namespace sbora::server {

/// INVALID_ARGUMENT INVALID_SPEC with one violation for each field that is wrong, all at once.
Status CheckEvaluationSpec(const v1::EvaluationSpec& spec);
/// Sets what the caller left open, as evaluation.proto says. REQUIRED: the spec is checked.
void FillEvaluationDefaults(v1::EvaluationSpec& spec);

/// INVALID_ARGUMENT INVALID_REQUEST with violations.
Status CheckGenerateRequest(const v1::GenerateRequest& request);
void FillGenerationDefaults(v1::GenerationSpec& spec);

/// Local copies of an evaluation's data; `few_shots` is empty without.
struct EvaluationFiles {
  std::filesystem::path dataset;
  v1::DatasetFormat format = v1::DATASET_FORMAT_UNSPECIFIED;
  std::filesystem::path few_shots = {};
  v1::DatasetFormat few_shot_format = v1::DATASET_FORMAT_UNSPECIFIED;
};
/// Reads the files to their end. REQUIRED: the spec has its defaults. Errors: those of data::CheckEvaluationSet,
/// as violations of `evaluation_job.spec.dataset`.
Status CheckEvaluationData(const v1::EvaluationSpec& spec, const EvaluationFiles& files);

}  // namespace sbora::server
