#include "worker/trainer/tasks/prepare.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/nf4_config.h"
#include "data/text_model.h"
#include "data/token_cache_builder.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

/// cutoff_tokens may still wait for the model.
Status Resolve(const std::filesystem::path& model_dir, core::JobSpec& spec) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(model_dir / "config.json", kMaxConfigBytes));
  SBORA_ASSIGN_OR_RETURN(const auto form, core::ParseModelForm(text));
  return core::ResolveAgainstModel(form.config, spec);
}

void Report(const data::ValidationReport& report, TaskObserver& observer) {
  observer.OnEvent(data::Lossy(report) ? EventLevel::kWarn : EventLevel::kInfo, "DATA_PREPARED", data::Summary(report));
}

}  // namespace

StatusOr<std::filesystem::path> OnlyFile(const std::filesystem::path& path, std::string_view suffix) {
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error)) return path;
  std::filesystem::path found;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (!it->is_regular_file(error) || !it->path().filename().string().ends_with(suffix)) continue;
    if (!found.empty()) {
      return InvalidArgument("INPUT_AMBIGUOUS", fmt::format("{} holds {} and {}, one file was expected", path.string(),
                                                            found.filename().string(), it->path().filename().string()));
    }
    found = it->path();
  }
  if (found.empty()) {
    return NotFound("INPUT_MISSING", fmt::format("{} holds no {} file", path.string(), suffix.empty() ? "regular" : suffix));
  }
  return found;
}

Status PrepareTokenCaches(const PrepareRequest& request, TaskObserver& observer) {
  core::JobSpec spec = request.spec;
  SBORA_RETURN_IF_ERROR(Resolve(request.model_dir, spec));
  observer.OnProgress({.phase = "reading the tokenizer"});
  SBORA_ASSIGN_OR_RETURN(const auto model, data::TextModel::Open(request.model_dir));
  data::TokenCacheInputs inputs{.dataset = {}, .validation_dataset = {}, .model = &model};
  if (request.mixture.empty()) {
    SBORA_ASSIGN_OR_RETURN(inputs.dataset, OnlyFile(request.dataset));
  }
  for (size_t i = 0; i < request.mixture.size(); ++i) {
    SBORA_ASSIGN_OR_RETURN(auto path, OnlyFile(request.mixture[i]));
    inputs.mixture.push_back({.path = std::move(path), .format = request.mixture_formats[i], .name = spec.datasets[i]});
  }
  if (!request.validation_dataset.empty()) {
    SBORA_ASSIGN_OR_RETURN(inputs.validation_dataset, OnlyFile(request.validation_dataset));
  }
  data::TokenCacheOptions options = data::FromDataSpec(spec.data, spec.training.seed);
  options.reader.format = request.dataset_format;
  if (!request.validation_dataset.empty()) options.validation_format = request.validation_format;
  options.progress = [&](int64_t done, int64_t total) {
    observer.OnProgress({.phase = fmt::format("tokenising the data ({} of {} bytes)", done, total)});
  };
  options.cancelled = [&] { return observer.StopRequested(); };
  SBORA_ASSIGN_OR_RETURN(auto files, data::BuildTokenCache(inputs, request.token_cache_dir, options));
  SBORA_RETURN_IF_ERROR(data::PlanMixture(spec.dataset_weights, spec.training.epoch_samples, files.report));
  Report(files.report, observer);
  if (files.validation.empty() || request.validation_cache_dir.empty()) return OkStatus();
  // Beside each other on one disk: the folders are the agent's.
  std::error_code error;
  std::filesystem::rename(files.validation, request.validation_cache_dir / files.validation.filename(), error);
  if (error) return FromErrno(error.value(), "moving the validation cache");
  return SyncDirectory(request.validation_cache_dir);
}

}  // namespace sbora::trainer
