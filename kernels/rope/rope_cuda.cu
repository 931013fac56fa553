// CUDA backend. A thread owns kVector neighbouring pairs of one head; grid x walks along rows, grid y over them.
#include "kernels/cuda_launch.cuh"
#include "kernels/rope/rope_internal.h"

namespace sbora::kernels::internal {
namespace {

constexpr int kThreads = 128;

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) RotateKernel(RopeArguments a) {
  const int64_t half = a.head_dim / 2;
  const int64_t packs_per_head = half / kVector;
  const int64_t packs = a.heads * packs_per_head;
  const float direction = a.inverse ? -1.0f : 1.0f;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t p = first; p < packs; p += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t head = p / packs_per_head;
    const int64_t i = (p - head * packs_per_head) * kVector;
    for (int64_t t = blockIdx.y; t < a.rows; t += gridDim.y) {
      const T* x = static_cast<const T*>(a.x_TD) + t * a.x_stride + head * a.head_dim + i;
      T* y = static_cast<T*>(a.y_TD) + (t * a.heads + head) * a.head_dim + i;
      float cos[kVector];
      float sin[kVector];
      float low[kVector];
      float high[kVector];
      // In packs of 16 bytes, which the tables need two of for elements of 2 bytes.
      constexpr int kTable = kVector < 4 ? kVector : 4;
#pragma unroll
      for (int v = 0; v < kVector; v += kTable) {
        float part[kTable];
        Load<float, kTable>(a.cos_TD2 + t * half + i + v, part);
#pragma unroll
        for (int k = 0; k < kTable; ++k) cos[v + k] = part[k];
        Load<float, kTable>(a.sin_TD2 + t * half + i + v, part);
#pragma unroll
        for (int k = 0; k < kTable; ++k) sin[v + k] = direction * part[k];
      }
      Load<T, kVector>(x, low);
      Load<T, kVector>(x + half, high);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const float turned = low[v] * cos[v] - high[v] * sin[v];
        high[v] = high[v] * cos[v] + low[v] * sin[v];
        low[v] = turned;
      }
      Store<T, kVector>(y, low);
      Store<T, kVector>(y + half, high);
    }
  }
}

struct Rotate {
  template <typename T>
  static const char* Run(const RopeArguments& a, cudaStream_t stream) {
    const int64_t half = a.head_dim / 2;
    if (InPacks<T>(a.x_TD, half, a.x_stride, kWide<T>) && InPacks<T>(a.y_TD, half, half, kWide<T>) &&
        InPacks<float>(a.cos_TD2, half, half, 4) && InPacks<float>(a.sin_TD2, half, half, 4)) {
      const dim3 grid(Blocks(a.heads * (half / kWide<T>), kThreads), Blocks(a.rows, 1));
      RotateKernel<T, kWide<T>><<<grid, kThreads, 0, stream>>>(a);
    } else {
      RotateKernel<T, 1><<<dim3(Blocks(a.heads * half, kThreads), Blocks(a.rows, 1)), kThreads, 0, stream>>>(a);
    }
    return LaunchResult();
  }
};

}  // namespace

const char* LaunchRope(const RopeArguments& arguments, void* stream) {
  return ForElements<Rotate>(arguments.dtype, arguments, stream);
}

}  // namespace sbora::kernels::internal
