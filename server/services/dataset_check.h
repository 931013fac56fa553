/// Reading a data set: its form when it is created, and its samples against a model's tokenizer when a job uses it. The
/// reading itself is data/'s; here are the answers in the API's terms.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "data/dataset_reader.h"
#include "data/validation_report.h"
#include "sbora/v1/dataset.pb.h"

namespace sbora::server {

/// UNSPECIFIED, and what this server does not know, is kAuto.
data::DatasetFormat ToDataFormat(v1::DatasetFormat format);

/// Fills `format` (as found when it was UNSPECIFIED) and the report. An invalid file is INVALID_ARGUMENT INVALID_DATASET
/// with the first problems as violations of `upload` (line number and byte offset in the text); the report is filled then, too.
Status CheckDatasetForm(const std::filesystem::path& file, v1::DatasetFormat& format, v1::ValidationReport& report);

/// Files of a job's data and their formats.
struct JobData {
  std::filesystem::path file;  ///< empty for a mixture
  v1::DatasetFormat format = v1::DATASET_FORMAT_UNSPECIFIED;
  std::vector<std::filesystem::path> mixture;  ///< as many as the spec's datasets, and the formats
  std::vector<v1::DatasetFormat> mixture_formats;
  std::filesystem::path validation_file;  ///< empty when there is none
  v1::DatasetFormat validation_format = v1::DATASET_FORMAT_UNSPECIFIED;
};

/// What a job would train on. `model_directory` holds the model's config.json, tokenizer.json and, if it has them,
/// tokenizer_config.json and chat_template.jinja.
/// Errors: INVALID_ARGUMENT INVALID_DATASET, those of data::CheckUsable, data::PlanMixture and the others of data/;
/// CANCELLED once `cancelled` says so.
StatusOr<data::ValidationReport> CheckDatasetAgainstModel(const JobData& files, const core::JobSpec& spec,
                                                          const std::filesystem::path& model_directory,
                                                          const std::function<bool()>& cancelled = {});

}  // namespace sbora::server
