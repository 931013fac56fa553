#include "kernels/adamw8bit/adamw8bit.h"

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/adamw8bit/adamw8bit_internal.h"
#include "kernels/cuda_status.h"

namespace sbora::kernels {
namespace {

using internal::CudaNotBuilt;
using internal::CudaResult;

Status Check(int64_t elements, std::initializer_list<const void*> pointers) {
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

internal::AdamWFactors FactorsOf(const AdamWStep& step) {
  const auto t = static_cast<double>(step.step);
  return {.beta1 = static_cast<float>(step.beta1),
          .one_minus_beta1 = static_cast<float>(1.0 - step.beta1),
          .beta2 = static_cast<float>(step.beta2),
          .one_minus_beta2 = static_cast<float>(1.0 - step.beta2),
          .epsilon = static_cast<float>(step.epsilon),
          .root_correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(step.beta2, t))),
          .keep = static_cast<float>(1.0 - step.learning_rate * step.weight_decay),
          .negative_rate = static_cast<float>(-step.learning_rate / (1.0 - std::pow(step.beta1, t)))};
}

bool Skips(const float* skip) { return skip != nullptr && *skip != 0.0f; }

}  // namespace

Status UpdateAdamW8Bit(Device device, const AdamWStep& step, int64_t elements, float* parameters, const float* gradients,
                       const Moment8Bit& m, const Moment8Bit& v, const float* skip, [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(CheckStep(step));
  SBORA_RETURN_IF_ERROR(Check(elements, {parameters, gradients, m.codes, m.scales, v.codes, v.scales}));
  if (elements == 0) return OkStatus();
  switch (device) {
    case Device::kCpuReference:
    case Device::kCpu:
      if (!Skips(skip)) internal::UpdateAdamW8BitCpu(FactorsOf(step), elements, parameters, gradients, m, v);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      return CudaResult("UpdateAdamW8Bit",
                        internal::LaunchUpdateAdamW8Bit(FactorsOf(step), elements, parameters, gradients, {m.codes, m.scales},
                                                        {v.codes, v.scales}, skip, stream));
#else
      return CudaNotBuilt("UpdateAdamW8Bit");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

Status UpdateAdamW32Bit(Device device, const AdamWStep& step, int64_t elements, float* parameters, const float* gradients,
                        float* m, float* v, const float* skip, [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(CheckStep(step));
  SBORA_RETURN_IF_ERROR(Check(elements, {parameters, gradients, m, v}));
  if (elements == 0) return OkStatus();
  switch (device) {
    case Device::kCpuReference:
    case Device::kCpu:
      if (!Skips(skip)) internal::UpdateAdamW32BitCpu(FactorsOf(step), elements, parameters, gradients, m, v);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      return CudaResult("UpdateAdamW32Bit", internal::LaunchUpdateAdamW32Bit(FactorsOf(step), elements, parameters, gradients,
                                                                             m, v, skip, stream));
#else
      return CudaNotBuilt("UpdateAdamW32Bit");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

Status DequantizeMoment(Device device, MomentKind kind, int64_t elements, const uint8_t* codes, const float* scales,
                        float* values, [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(Check(elements, {codes, scales, values}));
  if (elements == 0) return OkStatus();
  switch (device) {
    case Device::kCpuReference:
    case Device::kCpu:
      internal::DequantizeMomentCpu(kind, elements, codes, scales, values);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      return CudaResult("DequantizeMoment", internal::LaunchDequantizeMoment(kind == MomentKind::kSecond, elements, codes,
                                                                             scales, values, stream));
#else
      return CudaNotBuilt("DequantizeMoment");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

}  // namespace sbora::kernels
