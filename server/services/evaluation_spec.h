/// The rules of evaluation and generation requests: limits, defaults, and the data's answers.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "common/status.h"
#include "sbora/v1/adapter.pb.h"
#include "sbora/v1/dataset.pb.h"
#include "sbora/v1/evaluation.pb.h"
#include "sbora/v1/model.pb.h"

namespace sbora::server {

/// INVALID_ARGUMENT INVALID_SPEC with one violation for each field that is wrong, all at once.
Status CheckEvaluationSpec(const v1::EvaluationSpec& spec);
/// Sets what the caller left open, as evaluation.proto says. REQUIRED: the spec is checked.
void FillEvaluationDefaults(v1::EvaluationSpec& spec);

/// How the base of an evaluation or generation is held.
struct BaseForm {
  v1::Quantization quantization = v1::QUANTIZATION_NONE;
  bool double_quantization = false;
};
/// From what was asked for (QUANTIZATION_UNSPECIFIED: nothing), the model's own form and the adapter's, if there is one.
/// Errors: FAILED_PRECONDITION BASE_QUANTIZATION_MISMATCH when it asks for another form than that of adapter or model.
StatusOr<BaseForm> ResolveBaseForm(v1::Quantization asked, std::optional<bool> double_quantization, const v1::Model& model,
                                   const v1::Adapter* adapter, const std::string& field_prefix);

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
