// CUDA backend. A block per row, which is read from memory once: the second pass finds it in the caches. The weight's
// gradient: a block per 32 columns, whose threads sum every eighth row, and are then summed in order.
#include "kernels/cuda_launch.cuh"
#include "kernels/rms_norm/rms_norm_internal.h"

namespace sbora::kernels::internal {
namespace {

constexpr int kThreads = 256;
constexpr int kStrip = 32;   // columns of a block of the weight's gradient
constexpr int kSlices = 8;   // its threads for each column

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) ForwardKernel(RmsNormArguments a) {
  const auto* w = static_cast<const T*>(a.w_H);
  for (int64_t t = blockIdx.x; t < a.rows; t += gridDim.x) {
    const T* x = static_cast<const T*>(a.x_TH) + t * a.columns;
    T* y = static_cast<T*>(a.y_TH) + t * a.columns;
    const T* add = a.add_TH == nullptr ? nullptr : static_cast<const T*>(a.add_TH) + t * a.columns;
    T* sum = a.add_TH == nullptr ? nullptr : static_cast<T*>(a.sum_TH) + t * a.columns;
    float squares = 0.0f;
    for (int64_t i = threadIdx.x * kVector; i < a.columns; i += kThreads * kVector) {
      float values[kVector];
      Load<T, kVector>(x + i, values);
      if (add != nullptr) {
        float added[kVector];
        Load<T, kVector>(add + i, added);
#pragma unroll
        for (int v = 0; v < kVector; ++v) values[v] = Widen(Narrow<T>(values[v] + added[v]));
        Store<T, kVector>(sum + i, values);
      }
#pragma unroll
      for (int v = 0; v < kVector; ++v) squares += values[v] * values[v];
    }
    const float mean = BlockSum<kThreads>(squares) / static_cast<float>(a.columns);
    const float inverse = 1.0f / sqrtf(mean + a.epsilon);
    if (threadIdx.x == 0) a.inverse_T[t] = inverse;
    // Each thread reads what it wrote itself.
    const T* source = add == nullptr ? x : sum;
    for (int64_t i = threadIdx.x * kVector; i < a.columns; i += kThreads * kVector) {
      float values[kVector];
      float weights[kVector];
      Load<T, kVector>(source + i, values);
      Load<T, kVector>(w + i, weights);
#pragma unroll
      for (int v = 0; v < kVector; ++v) values[v] = Widen(Narrow<T>(values[v] * inverse)) * weights[v];
      Store<T, kVector>(y + i, values);
    }
  }
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kThreads) BackwardKernel(RmsNormBackwardArguments a) {
  const auto* w = static_cast<const T*>(a.w_H);
  for (int64_t t = blockIdx.x; t < a.rows; t += gridDim.x) {
    const T* x = static_cast<const T*>(a.x_TH) + t * a.columns;
    const T* grad = static_cast<const T*>(a.grad_TH) + t * a.columns;
    const T* add = a.add_TH == nullptr ? nullptr : static_cast<const T*>(a.add_TH) + t * a.columns;
    T* dx = static_cast<T*>(a.dx_TH) + t * a.columns;
    const float inverse = a.inverse_T[t];
    float products = 0.0f;
    for (int64_t i = threadIdx.x * kVector; i < a.columns; i += kThreads * kVector) {
      float values[kVector];
      float gradients[kVector];
      float weights[kVector];
      Load<T, kVector>(x + i, values);
      Load<T, kVector>(grad + i, gradients);
      Load<T, kVector>(w + i, weights);
#pragma unroll
      for (int v = 0; v < kVector; ++v) products += gradients[v] * weights[v] * (values[v] * inverse);
    }
    const float mean = BlockSum<kThreads>(products) / static_cast<float>(a.columns);
    for (int64_t i = threadIdx.x * kVector; i < a.columns; i += kThreads * kVector) {
      float values[kVector];
      float gradients[kVector];
      float weights[kVector];
      Load<T, kVector>(x + i, values);
      Load<T, kVector>(grad + i, gradients);
      Load<T, kVector>(w + i, weights);
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        values[v] = inverse * (gradients[v] * weights[v] - values[v] * inverse * mean);
      }
      if (add != nullptr) {
        float added[kVector];
        Load<T, kVector>(add + i, added);
#pragma unroll
        for (int v = 0; v < kVector; ++v) values[v] += added[v];
      }
      Store<T, kVector>(dx + i, values);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kStrip * kSlices) WeightGradientKernel(RmsNormWeightArguments a) {
  __shared__ float sums[kSlices][kStrip];
  const int lane = static_cast<int>(threadIdx.x);
  const int slice = static_cast<int>(threadIdx.y);
  for (int64_t begin = static_cast<int64_t>(blockIdx.x) * kStrip; begin < a.columns;
       begin += static_cast<int64_t>(gridDim.x) * kStrip) {
    const int64_t column = begin + lane;
    float sum = 0.0f;
    if (column < a.columns) {
      for (int64_t t = slice; t < a.rows; t += kSlices) {
        const int64_t i = t * a.stride + column;
        sum += Widen(static_cast<const T*>(a.grad_TH)[i]) * (Widen(static_cast<const T*>(a.x_TH)[i]) * a.inverse_T[t]);
      }
    }
    __syncthreads();  // sums may still be read for the strip before
    sums[slice][lane] = sum;
    __syncthreads();
    if (slice == 0 && column < a.columns) {
      float total = 0.0f;
#pragma unroll
      for (int s = 0; s < kSlices; ++s) total += sums[s][lane];
      a.dw_H[column] += total;
    }
  }
}

struct Forward {
  template <typename T>
  static const char* Run(const RmsNormArguments& a, cudaStream_t stream) {
    bool packs = true;
    for (const void* pointer : {a.x_TH, a.add_TH, a.w_H, static_cast<const void*>(a.sum_TH), static_cast<const void*>(a.y_TH)}) {
      packs = packs && InPacks<T>(pointer, a.columns, a.columns, kWide<T>);
    }
    if (packs) {
      ForwardKernel<T, kWide<T>><<<Blocks(a.rows, 1), kThreads, 0, stream>>>(a);
    } else {
      ForwardKernel<T, 1><<<Blocks(a.rows, 1), kThreads, 0, stream>>>(a);
    }
    return LaunchResult();
  }
};

struct Backward {
  template <typename T>
  static const char* Run(const RmsNormBackwardArguments& a, cudaStream_t stream) {
    bool packs = true;
    for (const void* pointer : {a.x_TH, a.w_H, a.grad_TH, a.add_TH, static_cast<const void*>(a.dx_TH)}) {
      packs = packs && InPacks<T>(pointer, a.columns, a.columns, kWide<T>);
    }
    if (packs) {
      BackwardKernel<T, kWide<T>><<<Blocks(a.rows, 1), kThreads, 0, stream>>>(a);
    } else {
      BackwardKernel<T, 1><<<Blocks(a.rows, 1), kThreads, 0, stream>>>(a);
    }
    return LaunchResult();
  }
};

struct WeightGradient {
  template <typename T>
  static const char* Run(const RmsNormWeightArguments& a, cudaStream_t stream) {
    WeightGradientKernel<T><<<Blocks(a.columns, kStrip), dim3(kStrip, kSlices), 0, stream>>>(a);
    return LaunchResult();
  }
};

}  // namespace

const char* LaunchRmsNorm(const RmsNormArguments& arguments, void* stream) {
  return ForElements<Forward>(arguments.dtype, arguments, stream);
}

const char* LaunchRmsNormBackward(const RmsNormBackwardArguments& arguments, void* stream) {
  return ForElements<Backward>(arguments.dtype, arguments, stream);
}

const char* LaunchRmsNormWeightGradient(const RmsNormWeightArguments& arguments, void* stream) {
  return ForElements<WeightGradient>(arguments.dtype, arguments, stream);
}

}  // namespace sbora::kernels::internal
