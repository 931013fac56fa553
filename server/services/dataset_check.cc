#include "server/services/dataset_check.h"

#include <fmt/format.h>

#include <system_error>

#include "common/status_macros.h"
#include "data/dataset_reader.h"
#include "data/text_model.h"
#include "data/token_cache_builder.h"

namespace sbora::server {
namespace {

v1::DatasetFormat ToProto(data::DatasetFormat format) {
  switch (format) {
    case data::DatasetFormat::kAlpaca: return v1::DATASET_FORMAT_ALPACA;
    case data::DatasetFormat::kPromptCompletion: return v1::DATASET_FORMAT_PROMPT_COMPLETION;
    case data::DatasetFormat::kChat: return v1::DATASET_FORMAT_CHAT;
    case data::DatasetFormat::kChoice: return v1::DATASET_FORMAT_CHOICE;
    case data::DatasetFormat::kAuto: break;
  }
  return v1::DATASET_FORMAT_UNSPECIFIED;
}

/// `field` is where the request names the data.
Status Invalid(const std::vector<data::RecordError>& errors, int64_t records, int64_t bad_records, std::string_view field) {
  const int64_t all = records + bad_records;
  Status bad = InvalidArgument("INVALID_DATASET", bad_records > 0 ? fmt::format("{} of {} records cannot be read; mend them and upload again",
                                                                                bad_records, all)
                                                                  : "the file holds no record");
  if (bad_records == 0) bad = bad.WithViolation(field, "must hold at least one record");
  for (const data::RecordError& error : errors) {
    bad = bad.WithViolation(field, fmt::format("line {}, byte {}: {}: {}", error.line, error.byte_offset, error.reason, error.message));
  }
  return bad;
}

}  // namespace

data::DatasetFormat ToDataFormat(v1::DatasetFormat format) {
  switch (format) {
    case v1::DATASET_FORMAT_ALPACA: return data::DatasetFormat::kAlpaca;
    case v1::DATASET_FORMAT_PROMPT_COMPLETION: return data::DatasetFormat::kPromptCompletion;
    case v1::DATASET_FORMAT_CHAT: return data::DatasetFormat::kChat;
    case v1::DATASET_FORMAT_CHOICE: return data::DatasetFormat::kChoice;
    case v1::DATASET_FORMAT_UNSPECIFIED:
    case v1::DatasetFormat_INT_MIN_SENTINEL_DO_NOT_USE_:
    case v1::DatasetFormat_INT_MAX_SENTINEL_DO_NOT_USE_: break;
  }
  return data::DatasetFormat::kAuto;
}

Status CheckDatasetForm(const std::filesystem::path& file, v1::DatasetFormat& format, v1::ValidationReport& report) {
  data::ReaderOptions options;
  options.format = ToDataFormat(format);
  SBORA_ASSIGN_OR_RETURN(const std::unique_ptr<data::DatasetReader> reader, data::DatasetReader::Open(file, options));
  for (;;) {
    SBORA_ASSIGN_OR_RETURN(const std::optional<data::Record> record, reader->Next());
    if (!record) break;
  }
  const data::ReaderStats& stats = reader->stats();
  report.set_samples(stats.records);
  report.set_invalid_samples(stats.bad_records);
  for (const data::RecordError& error : stats.errors) {
    v1::DatasetProblem& problem = *report.add_problems();
    problem.set_line(error.line);
    problem.set_byte_offset(error.byte_offset);
    problem.set_reason(error.reason);
    problem.set_message(error.message);
  }
  if (stats.bad_records > 0 || stats.records == 0) return Invalid(stats.errors, stats.records, stats.bad_records, "upload");
  format = ToProto(reader->format());
  return OkStatus();
}

StatusOr<data::ValidationReport> CheckDatasetAgainstModel(const JobData& files, const core::JobSpec& spec,
                                                          const std::filesystem::path& model_directory,
                                                          const std::function<bool()>& cancelled) {
  SBORA_ASSIGN_OR_RETURN(const data::TextModel model, data::TextModel::Open(model_directory));
  data::TokenCacheInputs inputs;
  inputs.dataset = files.file;
  inputs.validation_dataset = files.validation_file;
  inputs.model = &model;
  for (size_t i = 0; i < files.mixture.size(); ++i) {
    inputs.mixture.push_back({files.mixture[i], ToDataFormat(files.mixture_formats.at(i)), spec.datasets.at(i)});
  }
  data::TokenCacheOptions options = data::FromDataSpec(spec.data, spec.training.seed);
  options.cancelled = cancelled;
  options.reader.format = ToDataFormat(files.format);
  if (!files.validation_file.empty()) options.validation_format = ToDataFormat(files.validation_format);
  SBORA_ASSIGN_OR_RETURN(data::ValidationReport report, data::ValidateDataset(inputs, options));
  if (report.bad_records > 0 || report.records == 0)
    return Invalid(report.errors, report.records, report.bad_records,
                   spec.datasets.empty() ? "spec.dataset" : "spec.datasets");
  SBORA_RETURN_IF_ERROR(data::CheckUsable(report));
  SBORA_RETURN_IF_ERROR(data::PlanMixture(spec.dataset_weights, spec.training.epoch_samples, report));
  return report;
}

}  // namespace sbora::server
