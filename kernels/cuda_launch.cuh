// What the CUDA backends share: accesses of 16 bytes, sums over a block, launches.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda_elements.cuh"
#include "kernels/types.h"

namespace sbora::kernels::internal {

constexpr int kWarpSize = 32;
constexpr int64_t kMaxBlocks = 65535;  // of any grid dimension; the rest is walked by the kernels' loops

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
  T values[kCount];
};

/// Elements of T in 16 bytes.
template <typename T>
constexpr int kWide = 16 / static_cast<int>(sizeof(T));

/// Whether rows of `columns` elements, `stride` apart, can be read in packs of `count` elements.
template <typename T>
bool InPacks(const void* pointer, int64_t columns, int64_t stride, int count) {
  return columns % count == 0 && stride % count == 0 &&
         reinterpret_cast<uintptr_t>(pointer) % (sizeof(T) * count < 16 ? sizeof(T) * count : 16) == 0;
}

template <typename T, int kCount>
__device__ inline void Load(const T* source, float (&values)[kCount]) {
  const auto pack = *reinterpret_cast<const Pack<T, kCount>*>(source);
#pragma unroll
  for (int v = 0; v < kCount; ++v) values[v] = Widen(pack.values[v]);
}

template <typename T, int kCount>
__device__ inline void Store(T* target, const float (&values)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int v = 0; v < kCount; ++v) pack.values[v] = Narrow<T>(values[v]);
  *reinterpret_cast<Pack<T, kCount>*>(target) = pack;
}

/// The sum over the block's threads, in a fixed order, for each of them. All threads must call it.
template <int kThreads>
__device__ inline float BlockSum(float value) {
  static_assert(kThreads % kWarpSize == 0, "whole warps");
  __shared__ float of_warp[kThreads / kWarpSize];
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, offset);
  __syncthreads();  // of_warp may still be read by the sum before
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int w = 0; w < kThreads / kWarpSize; ++w) sum += of_warp[w];
  return sum;
}

inline unsigned Blocks(int64_t work, int64_t per_block) {
  const int64_t blocks = (work + per_block - 1) / per_block;
  return static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
}

inline const char* LaunchResult() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

/// Kernel::Run<T>(arguments, stream) for the element type.
template <typename Kernel, typename Arguments>
const char* ForElements(DType dtype, const Arguments& arguments, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case DType::kF32: return Kernel::template Run<float>(arguments, cuda_stream);
    case DType::kF16: return Kernel::template Run<__half>(arguments, cuda_stream);
    case DType::kBF16: return Kernel::template Run<__nv_bfloat16>(arguments, cuda_stream);
  }
  return "unknown dtype";
}

}  // namespace sbora::kernels::internal
