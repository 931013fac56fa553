#include "kernels/nf4/nf4.h"

#include "common/status_macros.h"
#include "kernels/cuda_status.h"
#include "kernels/nf4/nf4_cuda.h"
#include "kernels/nf4/nf4_internal.h"

namespace sbora::kernels {
namespace {

using internal::CudaNotBuilt;
using internal::CudaResult;

}  // namespace

Status QuantizeNf4(Device device, int64_t elements, DType dtype, const void* weight, uint8_t* codes, float* scales,
                   [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(internal::CheckQuantize(elements, weight, codes, scales));
  if (elements == 0) return OkStatus();
  switch (device) {
    case Device::kCpuReference:
      internal::QuantizeNf4Reference(elements, dtype, weight, codes, scales);
      return OkStatus();
    case Device::kCpu:
      internal::QuantizeNf4Cpu(elements, dtype, weight, codes, scales);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      return CudaResult("QuantizeNf4", internal::LaunchQuantizeNf4(elements, static_cast<int>(dtype), weight, codes,
                                                                   scales, stream));
#else
      return CudaNotBuilt("QuantizeNf4");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

Status DequantizeNf4(Device device, const Nf4Matrix& matrix, const uint8_t* codes, const float* scales, void* out_RC,
                     [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(internal::CheckMatrix(matrix, codes, scales, out_RC));
  if (matrix.rows == 0 || matrix.columns == 0) return OkStatus();
  switch (device) {
    case Device::kCpuReference:
      internal::DequantizeNf4Reference(matrix, codes, scales, out_RC);
      return OkStatus();
    case Device::kCpu:
      internal::DequantizeNf4Cpu(matrix, codes, scales, out_RC);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      return CudaResult("DequantizeNf4",
                        internal::LaunchDequantizeNf4({matrix.rows, matrix.columns, matrix.stride, matrix.first_element},
                                                      static_cast<int>(matrix.dtype), codes, scales, out_RC, stream));
#else
      return CudaNotBuilt("DequantizeNf4");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

Status QuantizeScales(Device device, int64_t blocks, const float* scales, uint8_t* scale_codes, float* group_scales,
                      float* offset, [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(internal::CheckScaleArguments(blocks, scales, scale_codes, group_scales, offset));
  if (blocks == 0) return OkStatus();
  switch (device) {
    case Device::kCpuReference:
      internal::QuantizeScalesReference(blocks, scales, scale_codes, group_scales, offset);
      return OkStatus();
    case Device::kCpu:
      internal::QuantizeScalesCpu(blocks, scales, scale_codes, group_scales, offset);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      return CudaResult("QuantizeScales", internal::LaunchQuantizeScales(blocks, scales, scale_codes, group_scales,
                                                                         offset, stream));
#else
      return CudaNotBuilt("QuantizeScales");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

Status DequantizeScales(Device device, int64_t blocks, const uint8_t* scale_codes, const float* group_scales,
                        const float* offset, float* scales, [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(internal::CheckScaleArguments(blocks, scales, scale_codes, group_scales, offset));
  if (blocks == 0) return OkStatus();
  switch (device) {
    case Device::kCpuReference:
      internal::DequantizeScalesReference(blocks, scale_codes, group_scales, *offset, scales);
      return OkStatus();
    case Device::kCpu:
      internal::DequantizeScalesCpu(blocks, scale_codes, group_scales, *offset, scales);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      return CudaResult("DequantizeScales", internal::LaunchDequantizeScales(blocks, scale_codes, group_scales, offset,
                                                                             scales, stream));
#else
      return CudaNotBuilt("DequantizeScales");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

}  // namespace sbora::kernels
