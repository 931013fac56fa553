// CUDA backend. A thread owns kVector neighbouring elements of one row; grid x walks along rows, grid y over them.
#include "kernels/cuda_launch.cuh"
#include "kernels/swiglu/swiglu_internal.h"

namespace sbora::kernels::internal {
namespace {

constexpr int kThreads = 256;

__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) ForwardKernel(SwiGluArguments a) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kVector;
  for (int64_t t = blockIdx.y; t < a.rows; t += gridDim.y) {
    for (int64_t f = first; f < a.columns; f += step) {
      float gate[kVector];
      float up[kVector];
      Load<T, kVector>(static_cast<const T*>(a.gate_TF) + t * a.gate_stride + f, gate);
      Load<T, kVector>(static_cast<const T*>(a.up_TF) + t * a.up_stride + f, up);
#pragma unroll
      for (int v = 0; v < kVector; ++v) up[v] = gate[v] * Sigmoid(gate[v]) * up[v];
      Store<T, kVector>(static_cast<T*>(a.y_TF) + t * a.y_stride + f, up);
    }
  }
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) BackwardKernel(SwiGluBackwardArguments a) {
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kVector;
  for (int64_t t = blockIdx.y; t < a.rows; t += gridDim.y) {
    for (int64_t f = first; f < a.columns; f += step) {
      float gate[kVector];
      float up[kVector];
      float grad[kVector];
      Load<T, kVector>(static_cast<const T*>(a.gate_TF) + t * a.gate_stride + f, gate);
      Load<T, kVector>(static_cast<const T*>(a.up_TF) + t * a.up_stride + f, up);
      Load<T, kVector>(static_cast<const T*>(a.grad_TF) + t * a.grad_stride + f, grad);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        const float s = Sigmoid(gate[v]);
        const float dup = grad[v] * gate[v] * s;
        grad[v] = grad[v] * up[v] * s * (1.0f + gate[v] * (1.0f - s));
        up[v] = dup;
      }
      Store<T, kVector>(static_cast<T*>(a.dgate_TF) + t * a.dgate_stride + f, grad);
      Store<T, kVector>(static_cast<T*>(a.dup_TF) + t * a.dup_stride + f, up);
    }
  }
}

dim3 Grid(int64_t rows, int64_t columns, int vector) {
  return dim3(Blocks(columns, int64_t{kThreads} * vector), Blocks(rows, 1));
}

struct Forward {
  template <typename T>
  static const char* Run(const SwiGluArguments& a, cudaStream_t stream) {
    if (InPacks<T>(a.gate_TF, a.columns, a.gate_stride, kWide<T>) && InPacks<T>(a.up_TF, a.columns, a.up_stride, kWide<T>) &&
        InPacks<T>(a.y_TF, a.columns, a.y_stride, kWide<T>)) {
      ForwardKernel<T, kWide<T>><<<Grid(a.rows, a.columns, kWide<T>), kThreads, 0, stream>>>(a);
    } else {
      ForwardKernel<T, 1><<<Grid(a.rows, a.columns, 1), kThreads, 0, stream>>>(a);
    }
    return LaunchResult();
  }
};

struct Backward {
  template <typename T>
  static const char* Run(const SwiGluBackwardArguments& a, cudaStream_t stream) {
    if (InPacks<T>(a.gate_TF, a.columns, a.gate_stride, kWide<T>) && InPacks<T>(a.up_TF, a.columns, a.up_stride, kWide<T>) &&
        InPacks<T>(a.grad_TF, a.columns, a.grad_stride, kWide<T>) &&
        InPacks<T>(a.dgate_TF, a.columns, a.dgate_stride, kWide<T>) &&
        InPacks<T>(a.dup_TF, a.columns, a.dup_stride, kWide<T>)) {
      BackwardKernel<T, kWide<T>><<<Grid(a.rows, a.columns, kWide<T>), kThreads, 0, stream>>>(a);
    } else {
      BackwardKernel<T, 1><<<Grid(a.rows, a.columns, 1), kThreads, 0, stream>>>(a);
    }
    return LaunchResult();
  }
};

}  // namespace

const char* LaunchSwiGlu(const SwiGluArguments& arguments, void* stream) {
  return ForElements<Forward>(arguments.dtype, arguments, stream);
}

const char* LaunchSwiGluBackward(const SwiGluBackwardArguments& arguments, void* stream) {
  return ForElements<Backward>(arguments.dtype, arguments, stream);
}

}  // namespace sbora::kernels::internal
