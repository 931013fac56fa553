#include "kernels/adamw8bit/adamw8bit.h"

#include <fmt/format.h>

#include <initializer_list>

#include "common/check.h"
#include "common/status_macros.h"
#include "kernels/adamw8bit/adamw8bit_internal.h"
#include "kernels/adamw_check.h"
#include "kernels/cuda_status.h"

namespace sbora::kernels {
namespace {

using internal::CudaNotBuilt;
using internal::CudaResult;
using internal::FactorsOf;

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
  if (internal::InRange(step)) return OkStatus();
  return InvalidArgument("ADAMW8BIT_STEP", internal::RangeOf(step));
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
