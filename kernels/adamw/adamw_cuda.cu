// CUDA backend. A thread owns four neighbouring elements: seven accesses of 16 bytes, and nothing else.
#include "kernels/adamw/adamw_internal.h"
#include "kernels/cuda_launch.cuh"

namespace sbora::kernels::internal {
namespace {

constexpr int kThreads = 256;

template <int kVector>
__global__ void __launch_bounds__(kThreads) UpdateKernel(AdamWArguments a, AdamWFactors f) {
  if (a.skip != nullptr && *a.skip != 0.0f) return;
  const float factor = a.gradient_factor == nullptr ? 1.0f : *a.gradient_factor;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kVector;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVector; i < a.elements; i += step) {
    float p[kVector];
    float g[kVector];
    float m[kVector];
    float v[kVector];
    Load<float, kVector>(a.parameters + i, p);
    Load<float, kVector>(a.gradients + i, g);
    Load<float, kVector>(a.m + i, m);
    Load<float, kVector>(a.v + i, v);
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
      g[k] *= factor;
      m[k] += f.one_minus_beta1 * (g[k] - m[k]);
      v[k] = f.beta2 * v[k] + f.one_minus_beta2 * g[k] * g[k];
      p[k] = p[k] * f.keep + f.negative_rate * m[k] / (sqrtf(v[k]) / f.root_correction2 + f.epsilon);
    }
    Store<float, kVector>(a.m + i, m);
    Store<float, kVector>(a.v + i, v);
    Store<float, kVector>(a.parameters + i, p);
  }
}

}  // namespace

const char* LaunchUpdateAdamW(const AdamWArguments& arguments, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const AdamWFactors factors = FactorsOf(arguments.step);
  bool packs = true;
  for (const float* pointer : {static_cast<const float*>(arguments.parameters), arguments.gradients,
                               static_cast<const float*>(arguments.m), static_cast<const float*>(arguments.v)}) {
    packs = packs && InPacks<float>(pointer, arguments.elements, arguments.elements, 4);
  }
  if (packs) {
    UpdateKernel<4><<<Blocks(arguments.elements, int64_t{kThreads} * 4), kThreads, 0, cuda_stream>>>(arguments, factors);
  } else {
    UpdateKernel<1><<<Blocks(arguments.elements, kThreads), kThreads, 0, cuda_stream>>>(arguments, factors);
  }
  return LaunchResult();
}

}  // namespace sbora::kernels::internal
