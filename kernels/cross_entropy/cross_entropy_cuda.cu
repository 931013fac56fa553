// CUDA backend. A block per row and two passes: each thread keeps the maximum and the sum of its elements as it goes, and
// the block puts them together in a fixed order; the second pass, from the second-level cache, writes the gradient.
#include "kernels/cross_entropy/cross_entropy_internal.h"
#include "kernels/cuda_launch.cuh"

namespace sbora::kernels::internal {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarpSize;

/// sum of e^(x - largest) over what was seen.
struct Partial {
  float largest;
  float sum;
};

/// e^(a - b), 1 where both are the same infinity.
__device__ inline float Ratio(float a, float b) { return a == b ? 1.0f : expf(a - b); }

__device__ inline Partial Together(const Partial& a, const Partial& b) {
  const float largest = fmaxf(a.largest, b.largest);
  return {largest, a.sum * Ratio(a.largest, largest) + b.sum * Ratio(b.largest, largest)};
}

/// Over the block, for each of its threads.
__device__ inline Partial OfBlock(Partial partial) {
  __shared__ Partial of_warp[kWarps];
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const Partial other = {__shfl_xor_sync(0xFFFFFFFFu, partial.largest, offset),
                           __shfl_xor_sync(0xFFFFFFFFu, partial.sum, offset)};
    partial = Together(partial, other);
  }
  __syncthreads();  // of_warp may still be read for the row before
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = partial;
  __syncthreads();
  Partial total = of_warp[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) total = Together(total, of_warp[w]);
  return total;
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) LossKernel(CrossEntropyArguments a) {
  for (int64_t s = blockIdx.x; s < a.rows; s += gridDim.x) {
    T* x = static_cast<T*>(a.logits_SV) + s * a.stride;
    const int64_t target = a.target_S[s];
    const bool known = target >= 0 && target < a.columns;
    const float at_target = known ? Widen(x[target]) : nanf("");  // before any thread writes: OfBlock is a barrier
    Partial partial = {-INFINITY, 0.0f};
    for (int64_t v = threadIdx.x * kVector; v < a.columns; v += kThreads * kVector) {
      float values[kVector];
      Load<T, kVector>(x + v, values);
      float largest = partial.largest;
#pragma unroll
      for (int k = 0; k < kVector; ++k) largest = fmaxf(largest, values[k]);
      float sum = partial.sum * Ratio(partial.largest, largest);
#pragma unroll
      for (int k = 0; k < kVector; ++k) sum += expf(values[k] - largest);
      partial = {largest, sum};
    }
    const Partial row = OfBlock(partial);
    if (threadIdx.x == 0) a.loss_S[s] = logf(row.sum) + (row.largest - at_target);
    if (!a.gradient) continue;
    const float inverse = 1.0f / row.sum;
    for (int64_t v = threadIdx.x * kVector; v < a.columns; v += kThreads * kVector) {
      float values[kVector];
      Load<T, kVector>(x + v, values);
#pragma unroll
      for (int k = 0; k < kVector; ++k) {
        values[k] = expf(values[k] - row.largest) * inverse - (v + k == target ? 1.0f : 0.0f);
      }
      Store<T, kVector>(x + v, values);
    }
  }
}

struct Loss {
  template <typename T>
  static const char* Run(const CrossEntropyArguments& a, cudaStream_t stream) {
    if (InPacks<T>(a.logits_SV, a.columns, a.stride, kWide<T>)) {
      LossKernel<T, kWide<T>><<<Blocks(a.rows, 1), kThreads, 0, stream>>>(a);
    } else {
      LossKernel<T, 1><<<Blocks(a.rows, 1), kThreads, 0, stream>>>(a);
    }
    return LaunchResult();
  }
};

}  // namespace

const char* LaunchCrossEntropy(const CrossEntropyArguments& arguments, void* stream) {
  return ForElements<Loss>(arguments.dtype, arguments, stream);
}

}  // namespace sbora::kernels::internal
