/// Reading a data set: its form when it is created, and its samples against a model's tokenizer when a job uses it. The
/// reading itself is data/'s; here are the answers in the API's terms.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

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

/// What a job would train on. `validation_format` counts with a `validation_file` only. `model_directory` holds the model's config.json, tokenizer.json and, if it has them,
/// tokenizer_config.json and chat_template.jinja; `validation_file` is empty when there is none.
/// Errors: INVALID_ARGUMENT INVALID_DATASET, those of data::CheckUsable and the others of data/;
/// CANCELLED once `cancelled` says so.
StatusOr<data::ValidationReport> CheckDatasetAgainstModel(const std::filesystem::path& file,
                                                          const std::filesystem::path& validation_file,
                                                          v1::DatasetFormat format, v1::DatasetFormat validation_format,
                                                          const core::JobSpec& spec,
                                                          const std::filesystem::path& model_directory,
                                                          const std::function<bool()>& cancelled = {});

}  // namespace sbora::server
