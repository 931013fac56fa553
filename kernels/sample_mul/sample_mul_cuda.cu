// CUDA backend. Raw pointers and CUDA's own headers only: this file compiles in seconds.
//
// A thread owns kVector neighbouring narrow elements of one row: the narrow side and the indices move in 16-byte
// accesses where pointers, stride and R allow it, the wide side is scattered by nature. Each wide element has one
// owner (indices are distinct), so there are no atomics and results are bitwise reproducible.
#include <cstdint>

#include "kernels/cuda_launch.cuh"
#include "kernels/sample_mul/sample_mul_cuda.h"

namespace sbora::kernels::internal {
namespace {

constexpr int kThreads = 256;

template <typename T, int kVector>
__global__ void GatherKernel(CudaShape shape, const T* __restrict__ wide, const int32_t* __restrict__ idx,
                             T* __restrict__ narrow) {
  const int64_t packs_per_row = shape.indices / kVector;
  const int64_t packs = shape.rows * packs_per_row;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < packs;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t row = i / packs_per_row;
    const int64_t column = (i - row * packs_per_row) * kVector;
    const T* source = wide + row * shape.wide_stride;
    Pack<T, kVector> pack;
#pragma unroll
    for (int v = 0; v < kVector; ++v) pack.values[v] = source[idx[column + v]];
    *reinterpret_cast<Pack<T, kVector>*>(narrow + row * shape.narrow_stride + column) = pack;
  }
}

template <typename T, int kVector>
__global__ void ScatterAddKernel(CudaShape shape, T* __restrict__ wide, const int32_t* __restrict__ idx,
                                 const T* __restrict__ narrow, float scale) {
  const int64_t packs_per_row = shape.indices / kVector;
  const int64_t packs = shape.rows * packs_per_row;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < packs;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t row = i / packs_per_row;
    const int64_t column = (i - row * packs_per_row) * kVector;
    T* target = wide + row * shape.wide_stride;
    const auto pack = *reinterpret_cast<const Pack<T, kVector>*>(narrow + row * shape.narrow_stride + column);
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      T* element = target + idx[column + v];
      *element = Narrow<T>(Widen(*element) + scale * Widen(pack.values[v]));
    }
  }
}

/// One thread per element: the columns are written once per optimizer step, the scattered side decides.
template <typename T>
__global__ void WriteKernel(CudaShape shape, T* __restrict__ wide, const int32_t* __restrict__ idx,
                            const T* __restrict__ narrow, const float* __restrict__ factor, float scale) {
  const int64_t elements = shape.rows * shape.indices;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t row = i / shape.indices;
    const int64_t column = i - row * shape.indices;
    const int64_t at = row * shape.narrow_stride + column;
    wide[row * shape.wide_stride + idx[column]] = Narrow<T>(Widen(narrow[at]) + scale * factor[at]);
  }
}

template <typename T>
bool Vectorizable(const CudaShape& shape, const void* narrow) {
  return InPacks<T>(narrow, shape.indices, shape.narrow_stride, kWide<T>);
}

template <typename T>
const char* Gather(const CudaShape& shape, const void* wide, const int32_t* idx, void* narrow, cudaStream_t stream) {
  const T* source = static_cast<const T*>(wide);
  T* target = static_cast<T*>(narrow);
  const int64_t elements = shape.rows * shape.indices;
  if (Vectorizable<T>(shape, narrow)) {
    GatherKernel<T, kWide<T>><<<Blocks(elements / kWide<T>, kThreads), kThreads, 0, stream>>>(shape, source, idx, target);
  } else {
    GatherKernel<T, 1><<<Blocks(elements, kThreads), kThreads, 0, stream>>>(shape, source, idx, target);
  }
  return LaunchResult();
}

template <typename T>
const char* ScatterAdd(const CudaShape& shape, void* wide, const int32_t* idx, const void* narrow, float scale,
                       cudaStream_t stream) {
  T* target = static_cast<T*>(wide);
  const T* source = static_cast<const T*>(narrow);
  const int64_t elements = shape.rows * shape.indices;
  if (Vectorizable<T>(shape, narrow)) {
    ScatterAddKernel<T, kWide<T>>
        <<<Blocks(elements / kWide<T>, kThreads), kThreads, 0, stream>>>(shape, target, idx, source, scale);
  } else {
    ScatterAddKernel<T, 1><<<Blocks(elements, kThreads), kThreads, 0, stream>>>(shape, target, idx, source, scale);
  }
  return LaunchResult();
}

template <typename T>
const char* Write(const CudaShape& shape, void* wide, const int32_t* idx, const void* narrow, const float* factor,
                  float scale, cudaStream_t stream) {
  WriteKernel<T><<<Blocks(shape.rows * shape.indices, kThreads), kThreads, 0, stream>>>(
      shape, static_cast<T*>(wide), idx, static_cast<const T*>(narrow), factor, scale);
  return LaunchResult();
}

}  // namespace

const char* LaunchGatherColumns(const CudaShape& shape, int dtype, const void* wide, const int32_t* idx, void* narrow,
                                void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case 0: return Gather<float>(shape, wide, idx, narrow, cuda_stream);
    case 1: return Gather<__half>(shape, wide, idx, narrow, cuda_stream);
    case 2: return Gather<__nv_bfloat16>(shape, wide, idx, narrow, cuda_stream);
    default: return "unknown dtype";
  }
}

const char* LaunchScatterAddColumns(const CudaShape& shape, int dtype, void* wide, const int32_t* idx,
                                    const void* narrow, float scale, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case 0: return ScatterAdd<float>(shape, wide, idx, narrow, scale, cuda_stream);
    case 1: return ScatterAdd<__half>(shape, wide, idx, narrow, scale, cuda_stream);
    case 2: return ScatterAdd<__nv_bfloat16>(shape, wide, idx, narrow, scale, cuda_stream);
    default: return "unknown dtype";
  }
}

const char* LaunchWriteColumns(const CudaShape& shape, int dtype, void* wide, const int32_t* idx, const void* narrow,
                               const float* factor, float scale, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case 0: return Write<float>(shape, wide, idx, narrow, factor, scale, cuda_stream);
    case 1: return Write<__half>(shape, wide, idx, narrow, factor, scale, cuda_stream);
    case 2: return Write<__nv_bfloat16>(shape, wide, idx, narrow, factor, scale, cuda_stream);
    default: return "unknown dtype";
  }
}

}  // namespace sbora::kernels::internal
