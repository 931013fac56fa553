// Elements of the three float types on the device: arithmetic is float32, rounding to nearest even.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace sbora::kernels::internal {

__device__ inline float Widen(float value) { return value; }
__device__ inline float Widen(__half value) { return __half2float(value); }
__device__ inline float Widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ inline T Narrow(float value);
template <>
__device__ inline float Narrow<float>(float value) { return value; }
template <>
__device__ inline __half Narrow<__half>(float value) { return __float2half_rn(value); }
template <>
__device__ inline __nv_bfloat16 Narrow<__nv_bfloat16>(float value) { return __float2bfloat16_rn(value); }

}  // namespace sbora::kernels::internal
