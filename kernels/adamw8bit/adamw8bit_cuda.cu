// CUDA backend. Raw pointers and CUDA's own headers only: this file compiles in seconds.
//
// A thread block owns a block of 256 elements, a thread one of them: each code, moment and parameter is read and written
// once. Maps and bounds lie in shared memory, since neighbouring threads look at different places of them. All arithmetic
// uses the _rn intrinsics: nvcc fuses a product and a sum otherwise, and the bits would differ from the CPU's.
#include "kernels/adamw8bit/adamw8bit_factors.h"
#include "kernels/adamw8bit/adamw8bit_tables.h"
#include "kernels/cuda_launch.cuh"

namespace sbora::kernels::internal {
namespace {

constexpr int kThreads = 256;  // kAdamW8BitBlock

__constant__ DynamicMap device_signed_map = kDynamicMap;
__constant__ DynamicMap device_unsigned_map = kUnsignedDynamicMap;
__constant__ StepBounds device_signed_bounds = kDynamicBounds;
__constant__ StepBounds device_unsigned_bounds = kUnsignedDynamicBounds;

struct Element {
  float p, m, v;
};

__device__ inline Element Updated(const AdamWFactors& f, Element e, float g) {
  e.m = __fadd_rn(__fmul_rn(e.m, f.beta1), __fmul_rn(g, f.one_minus_beta1));
  e.v = __fadd_rn(__fmul_rn(e.v, f.beta2), __fmul_rn(__fmul_rn(f.one_minus_beta2, g), g));
  const float divisor = __fadd_rn(__fdiv_rn(__fsqrt_rn(e.v), f.root_correction2), f.epsilon);
  e.p = __fadd_rn(__fmul_rn(e.p, f.keep), __fmul_rn(f.negative_rate, __fdiv_rn(e.m, divisor)));
  return e;
}

/// Largest magnitude over the thread block, for all of its threads; NaN does not count. `of_warp` is free afterwards only
/// past the next barrier.
__device__ inline float BlockLargest(float value, float* of_warp) {
  float largest = fmaxf(0.0f, fabsf(value));
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, offset));
  }
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = largest;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kThreads / kWarpSize; ++warp) largest = fmaxf(largest, of_warp[warp]);
  return largest;
}

__device__ inline uint8_t NearestCode(const uint16_t* bounds, float value, float largest) {
  const float normalised = __fmul_rn(value, __frcp_rn(largest));
  if (isnan(normalised)) return 0;
  const float clamped = fminf(fmaxf(normalised, -1.0f), 1.0f);
  const float raised = __fmul_rn(__fmul_rn(__fadd_rn(clamped, 1.0f), 0.5f), static_cast<float>(kDynamicSteps - 1));
  const int step = static_cast<int>(__fadd_rn(raised, 0.5f));
  int code = 0;
#pragma unroll
  for (int half = 128; half > 0; half /= 2) {
    if (bounds[code + half - 1] <= step) code += half;
  }
  return static_cast<uint8_t>(code);
}

__global__ void Update8BitKernel(AdamWFactors factors, int64_t elements, float* __restrict__ parameters,
                                 const float* __restrict__ gradients, CudaMoment8Bit m, CudaMoment8Bit v,
                                 const float* __restrict__ skip) {
  __shared__ DynamicMap signed_map, unsigned_map;
  __shared__ StepBounds signed_bounds, unsigned_bounds;
  __shared__ float of_warp[2][kThreads / kWarpSize];
  if (skip != nullptr && *skip != 0.0f) return;
  const int thread = static_cast<int>(threadIdx.x);
  signed_map.at[thread] = device_signed_map.at[thread];
  unsigned_map.at[thread] = device_unsigned_map.at[thread];
  if (thread < 255) {
    signed_bounds.at[thread] = device_signed_bounds.at[thread];
    unsigned_bounds.at[thread] = device_unsigned_bounds.at[thread];
  }
  __syncthreads();
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const int64_t i = block * kThreads + thread;
    const bool inside = i < elements;
    Element e{0.0f, 0.0f, 0.0f};
    if (inside) {
      e.m = __fmul_rn(signed_map.at[m.codes[i]], m.scales[block]);
      e.v = __fmul_rn(unsigned_map.at[v.codes[i]], v.scales[block]);
      e.p = parameters[i];
      e = Updated(factors, e, gradients[i]);
      parameters[i] = e.p;
    }
    const float m_largest = BlockLargest(e.m, of_warp[0]);  // its barrier also ends the reading of the old scales
    const float v_largest = BlockLargest(e.v, of_warp[1]);
    if (inside) {
      m.codes[i] = NearestCode(signed_bounds.at, e.m, m_largest);
      v.codes[i] = NearestCode(unsigned_bounds.at, e.v, v_largest);
    }
    if (thread == 0) {
      m.scales[block] = m_largest;
      v.scales[block] = v_largest;
    }
    __syncthreads();  // of_warp is written again
  }
}

__global__ void Update32BitKernel(AdamWFactors factors, int64_t elements, float* __restrict__ parameters,
                                  const float* __restrict__ gradients, float* __restrict__ m, float* __restrict__ v,
                                  const float* __restrict__ skip) {
  if (skip != nullptr && *skip != 0.0f) return;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const Element e = Updated(factors, {parameters[i], m[i], v[i]}, gradients[i]);
    parameters[i] = e.p;
    m[i] = e.m;
    v[i] = e.v;
  }
}

__global__ void DequantizeMomentKernel(bool second, int64_t elements, const uint8_t* __restrict__ codes,
                                       const float* __restrict__ scales, float* __restrict__ values) {
  const float* map = second ? device_unsigned_map.at : device_signed_map.at;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    values[i] = __fmul_rn(map[codes[i]], scales[i / kThreads]);
  }
}

}  // namespace

const char* LaunchUpdateAdamW8Bit(const AdamWFactors& factors, int64_t elements, float* parameters, const float* gradients,
                                  CudaMoment8Bit m, CudaMoment8Bit v, const float* skip, void* stream) {
  Update8BitKernel<<<Blocks(elements, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      factors, elements, parameters, gradients, m, v, skip);
  return LaunchResult();
}

const char* LaunchUpdateAdamW32Bit(const AdamWFactors& factors, int64_t elements, float* parameters, const float* gradients,
                                   float* m, float* v, const float* skip, void* stream) {
  Update32BitKernel<<<Blocks(elements, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      factors, elements, parameters, gradients, m, v, skip);
  return LaunchResult();
}

const char* LaunchDequantizeMoment(bool second, int64_t elements, const uint8_t* codes, const float* scales, float* values,
                                   void* stream) {
  DequantizeMomentKernel<<<Blocks(elements, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      second, elements, codes, scales, values);
  return LaunchResult();
}

}  // namespace sbora::kernels::internal
