#include "worker/trainer/session/base_model.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/nf4_model.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

Status Mismatch(const BaseRequest& request, const std::filesystem::path& dir, std::string_view what) {
  return FailedPrecondition("NF4_BASE_MISMATCH", fmt::format("{} {}; the task needs base {} as {}", dir.string(), what,
                                                             request.base_hash, core::Describe(request.quantization)));
}

/// `own`: the folder is the model itself, else a form of it that was made here.
Status CheckNf4Folder(const BaseRequest& request, const std::filesystem::path& dir, bool own) {
  if (dir.empty()) {
    return FailedPrecondition("NF4_BASE_MISSING", fmt::format("{} is needed in NF4 and no such folder was given",
                                                              request.model_dir.string()));
  }
  const auto text = ReadFile(dir / "config.json", kMaxConfigBytes);
  const auto parsed = text.ok() ? core::ParseNf4Config(*text) : StatusOr<core::Nf4Config>(text.status());
  if (!parsed.ok() && own) return parsed.status();
  if (!parsed.ok()) {  // the folder is ours, so nobody gave a wrong one: it is damaged, and is made anew
    return DataLoss("NF4_DAMAGED", fmt::format("{}: {}", dir.string(), parsed.status().message()));
  }
  const core::Nf4Config& config = *parsed;
  if (config.merged() != own) return Mismatch(request, dir, own ? "is no merged model" : "is a merged model");
  if (!request.base_hash.empty() && config.identity() != request.base_hash) {
    return Mismatch(request, dir, fmt::format("is base {}", config.identity()));
  }
  if (config.held_as() == request.quantization) return OkStatus();
  return Mismatch(request, dir, fmt::format("is {}", core::Describe(config.held_as())));
}

}  // namespace

StatusOr<core::BaseQuantization> HeldBy(const std::filesystem::path& model_dir) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(model_dir / "config.json", kMaxConfigBytes));
  SBORA_ASSIGN_OR_RETURN(const core::ModelForm form, core::ParseModelForm(text));
  return form.held_as;
}

StatusOr<std::unique_ptr<LlamaModel>> LoadBase(const BaseRequest& request, const TorchPlan& plan, TaskObserver& observer) {
  const LlamaModel::Options options{
      .device = plan.device, .dtype = plan.dtype, .progress = [&](int64_t done, int64_t total) {
        observer.OnProgress({.phase = fmt::format("loading model ({} of {} tensors)", done, total)});
      },
      .layer_done = [&observer] { observer.OnAlive(); }};
  SBORA_ASSIGN_OR_RETURN(const core::BaseQuantization held, HeldBy(request.model_dir));
  const bool own = held.kind == core::Quantization::kNf4;
  if (!own && request.quantization.kind == core::Quantization::kNone) return LlamaModel::Load(request.model_dir, options);
  const std::filesystem::path& dir = own ? request.model_dir : request.nf4_dir;
  SBORA_RETURN_IF_ERROR(CheckNf4Folder(request, dir, own));
  SBORA_ASSIGN_OR_RETURN(auto model, LlamaModel::LoadNf4(dir, options));
  observer.OnEvent(EventLevel::kInfo, "QUANTIZED_BASE",
                   fmt::format("the base is held as {}: {} bytes of weights", core::Describe(request.quantization),
                               model->WeightBytes()));
  return model;
}

}  // namespace sbora::trainer
