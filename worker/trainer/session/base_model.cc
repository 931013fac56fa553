#include "worker/trainer/session/base_model.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/nf4_model.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kMaxConfigBytes = 1 << 20;

Status CheckNf4Folder(const BaseRequest& request) {
  if (request.nf4_dir.empty()) {
    return FailedPrecondition("NF4_BASE_MISSING", fmt::format("{} is needed in NF4 and no such folder was given",
                                                              request.model_dir.string()));
  }
  const auto text = ReadFile(request.nf4_dir / "config.json", kMaxConfigBytes);
  const auto parsed = text.ok() ? core::ParseNf4Config(*text) : StatusOr<core::Nf4Config>(text.status());
  if (!parsed.ok()) {  // the folder is ours, so nobody gave a wrong one: it is damaged, and is made anew
    return DataLoss("NF4_DAMAGED", fmt::format("{}: {}", request.nf4_dir.string(), parsed.status().message()));
  }
  const core::Nf4Config& config = *parsed;
  if (!request.base_hash.empty() && config.base_hash != request.base_hash) {
    return FailedPrecondition("NF4_BASE_MISMATCH", fmt::format("{} was made of base {}, this one is {}",
                                                               request.nf4_dir.string(), config.base_hash,
                                                               request.base_hash));
  }
  const core::BaseQuantization found{.kind = core::Quantization::kNf4, .double_quantization = config.double_quantization};
  if (found == request.quantization) return OkStatus();
  return FailedPrecondition("NF4_BASE_MISMATCH",
                            fmt::format("{} is {}, the task needs {}", request.nf4_dir.string(), core::Describe(found),
                                        core::Describe(request.quantization)));
}

}  // namespace

StatusOr<std::unique_ptr<LlamaModel>> LoadBase(const BaseRequest& request, const TorchPlan& plan, TaskObserver& observer) {
  const LlamaModel::Options options{
      .device = plan.device, .dtype = plan.dtype, .progress = [&](int64_t done, int64_t total) {
        observer.OnProgress({.phase = fmt::format("loading model ({} of {} tensors)", done, total)});
      },
      .layer_done = [&observer] { observer.OnAlive(); }};
  if (request.quantization.kind == core::Quantization::kNone) return LlamaModel::Load(request.model_dir, options);
  SBORA_RETURN_IF_ERROR(CheckNf4Folder(request));
  SBORA_ASSIGN_OR_RETURN(auto model, LlamaModel::LoadNf4(request.nf4_dir, options));
  observer.OnEvent(EventLevel::kInfo, "QUANTIZED_BASE",
                   fmt::format("the base is held as {}: {} bytes of weights", core::Describe(request.quantization),
                               model->WeightBytes()));
  return model;
}

}  // namespace sbora::trainer
