#include "kernels/adamw8bit/adamw8bit.h"

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>

#include "common/status_macros.h"
#include "kernels/adamw8bit/adamw8bit_internal.h"

namespace sbora::kernels {
namespace {

Status Check(Device device, int64_t elements, std::initializer_list<const void*> pointers) {
  if (device != Device::kCpu) {
    return Unimplemented("CUDA_NOT_BUILT", "AdamW with moments in 8 bits has no CUDA kernel; use the CPU, or adamw");
  }
  if (elements < 0) return InvalidArgument("ADAMW8BIT_SHAPE", fmt::format("{} elements", elements));
  for (const void* pointer : pointers) {
    if (elements > 0 && pointer == nullptr) {
      return InvalidArgument("ADAMW8BIT_POINTER", fmt::format("a null pointer for {} elements", elements));
    }
  }
  return OkStatus();
}

Status CheckStep(const AdamWStep& step) {
  const auto share = [](double value) { return value >= 0 && value < 1; };
  const auto finite = [](double value) { return std::isfinite(value) && value >= 0; };
  if (share(step.beta1) && share(step.beta2) && finite(step.epsilon) && step.epsilon > 0 && finite(step.weight_decay) &&
      finite(step.learning_rate) && step.step >= 1) {
    return OkStatus();
  }
  return InvalidArgument("ADAMW8BIT_STEP",
                         fmt::format("beta1={}, beta2={} (0 to below 1), epsilon={} (above 0), weight_decay={}, learning_rate={} (finite, "
                                     "not negative), step={} (from 1): out of range",
                                     step.beta1, step.beta2, step.epsilon, step.weight_decay, step.learning_rate, step.step));
}

}  // namespace

Status UpdateAdamW8Bit(Device device, const AdamWStep& step, int64_t elements, float* parameters, const float* gradients,
                       const Moment8Bit& m, const Moment8Bit& v) {
  SBORA_RETURN_IF_ERROR(CheckStep(step));
  SBORA_RETURN_IF_ERROR(Check(device, elements, {parameters, gradients, m.codes, m.scales, v.codes, v.scales}));
  internal::UpdateAdamW8BitCpu(step, elements, parameters, gradients, m, v);
  return OkStatus();
}

Status UpdateAdamW32Bit(Device device, const AdamWStep& step, int64_t elements, float* parameters, const float* gradients,
                        float* m, float* v) {
  SBORA_RETURN_IF_ERROR(CheckStep(step));
  SBORA_RETURN_IF_ERROR(Check(device, elements, {parameters, gradients, m, v}));
  internal::UpdateAdamW32BitCpu(step, elements, parameters, gradients, m, v);
  return OkStatus();
}

Status DequantizeMoment(Device device, MomentKind kind, int64_t elements, const uint8_t* codes, const float* scales,
                        float* values) {
  SBORA_RETURN_IF_ERROR(Check(device, elements, {codes, scales, values}));
  internal::DequantizeMomentCpu(kind, elements, codes, scales, values);
  return OkStatus();
}

}  // namespace sbora::kernels
