#include "worker/trainer/session/quantize_base.h"

#include <fmt/format.h>

#include "common/status_macros.h"
#include "core/model_folder.h"
#include "worker/trainer/ops/quantize_weight.h"

namespace sbora::trainer {

StatusOr<core::Nf4Config> QuantizeBase(const QuantizeRequest& request, TaskObserver& observer) {
  SBORA_ASSIGN_OR_RETURN(const core::ModelFolder base, core::ModelFolder::Open(request.model_dir));
  const core::Nf4WriteOptions options{
      .double_quantization = request.double_quantization,
      .known_base_hash = request.base_hash,
      .progress =
          [&](int64_t done, int64_t total) {
            observer.OnProgress({.step = done,
                                 .total_steps = total,
                                 .phase = fmt::format("quantising the base ({} of {} tensors)", done, total)});
          },
      .cancelled = [&] { return observer.StopRequested(); }};
  return core::WriteNf4Model(
      base, request.output_dir,
      [&](const core::TensorView& weight) {
        return QuantizeWeight(weight, request.double_quantization, request.threads);
      },
      options);
}

}  // namespace sbora::trainer
