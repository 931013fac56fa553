#include "kernels/sample_mul/sample_mul.h"

#include "common/status_macros.h"
#include "kernels/cuda_status.h"
#include "kernels/sample_mul/sample_mul_cuda.h"
#include "kernels/sample_mul/sample_mul_internal.h"

namespace sbora::kernels {
namespace {

using internal::CudaNotBuilt;
using internal::CudaResult;

[[maybe_unused]] internal::CudaShape ForCuda(const SampleMulShape& shape) {
  return {shape.rows, shape.wide_stride, shape.indices, shape.narrow_stride};
}

bool IsNoOp(const SampleMulShape& shape) { return shape.rows == 0 || shape.indices == 0; }

}  // namespace

Status GatherColumns(Device device, const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R,
                     void* narrow_TR, [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(internal::CheckShape(shape, wide_TC, idx_R, narrow_TR));
  switch (device) {
    case Device::kCpuReference:
      if (!IsNoOp(shape)) internal::GatherColumnsReference(shape, wide_TC, idx_R, narrow_TR);
      return OkStatus();
    case Device::kCpu:
      if (!IsNoOp(shape)) internal::GatherColumnsCpu(shape, wide_TC, idx_R, narrow_TR);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      if (IsNoOp(shape)) return OkStatus();
      return CudaResult("GatherColumns",
                        internal::LaunchGatherColumns(ForCuda(shape), static_cast<int>(shape.dtype), wide_TC, idx_R,
                                                      narrow_TR, stream));
#else
      return CudaNotBuilt("GatherColumns");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

Status ScatterAddColumns(Device device, const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R,
                         const void* narrow_TR, float scale, [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(internal::CheckShape(shape, wide_TC, idx_R, narrow_TR));
  switch (device) {
    case Device::kCpuReference:
      if (!IsNoOp(shape)) internal::ScatterAddColumnsReference(shape, wide_TC, idx_R, narrow_TR, scale);
      return OkStatus();
    case Device::kCpu:
      if (!IsNoOp(shape)) internal::ScatterAddColumnsCpu(shape, wide_TC, idx_R, narrow_TR, scale);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      if (IsNoOp(shape)) return OkStatus();
      return CudaResult("ScatterAddColumns",
                        internal::LaunchScatterAddColumns(ForCuda(shape), static_cast<int>(shape.dtype), wide_TC,
                                                          idx_R, narrow_TR, scale, stream));
#else
      return CudaNotBuilt("ScatterAddColumns");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

Status WriteColumns(Device device, const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R, const void* narrow_TR,
                    const float* factor_TR, float scale, [[maybe_unused]] Stream stream) {
  SBORA_RETURN_IF_ERROR(internal::CheckShape(shape, wide_TC, idx_R, narrow_TR));
  if (factor_TR == nullptr && !IsNoOp(shape)) return InvalidArgument("SAMPLE_MUL_POINTER", "null pointer: factor=null");
  switch (device) {
    case Device::kCpuReference:
      if (!IsNoOp(shape)) internal::WriteColumnsReference(shape, wide_TC, idx_R, narrow_TR, factor_TR, scale);
      return OkStatus();
    case Device::kCpu:
      if (!IsNoOp(shape)) internal::WriteColumnsCpu(shape, wide_TC, idx_R, narrow_TR, factor_TR, scale);
      return OkStatus();
    case Device::kCuda:
#ifdef SBORA_WITH_CUDA
      if (IsNoOp(shape)) return OkStatus();
      return CudaResult("WriteColumns",
                        internal::LaunchWriteColumns(ForCuda(shape), static_cast<int>(shape.dtype), wide_TC, idx_R,
                                                     narrow_TR, factor_TR, scale, stream));
#else
      return CudaNotBuilt("WriteColumns");
#endif
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

}  // namespace sbora::kernels
