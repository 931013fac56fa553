// CUDA backend. Raw pointers and CUDA's own headers only: this file compiles in seconds.
//
// Arithmetic that decides bits uses the _rn intrinsics: nvcc fuses a product and a sum otherwise, and the codes and
// scales would differ from the CPU's. De-quantising is bound by memory: a thread turns 4 bytes into 8 neighbouring
// elements of one row and writes them in 16-byte accesses where alignment allows it.
#include <cstdint>

#include "kernels/cuda_launch.cuh"
#include "kernels/nf4/nf4_cuda.h"
#include "kernels/nf4/nf4_mean.h"
#include "kernels/nf4/nf4_tables.h"

namespace sbora::kernels::internal {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlockSize = 64;       // kNf4BlockSize
constexpr int64_t kGroupSize = 256;      // kNf4GroupSize
constexpr int kVector = 8;               // elements of a thread

__constant__ Nf4Values device_values = kNf4Values;
__constant__ Nf4Midpoints device_midpoints = kNf4Midpoints;
__constant__ DynamicMap device_map = kDynamicMap;

/// NaN gets 15.
__device__ inline unsigned NearestCode(float value) {
  unsigned code = 0;
#pragma unroll
  for (unsigned step = 8; step > 0; step /= 2) {
    if (!(device_midpoints.at[code + step - 1] >= value)) code += step;
  }
  return code;
}

/// Largest magnitude over a warp; NaN when any is.
__device__ inline float WarpLargest(float magnitude) {
#pragma unroll
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, magnitude, offset);
    magnitude = other > magnitude || isnan(other) ? other : magnitude;
  }
  return magnitude;
}

/// A warp per block of 64: each lane has two neighbours, which share a byte.
template <typename T>
__global__ void QuantizeKernel(int64_t elements, const T* __restrict__ weight, uint8_t* __restrict__ codes,
                               float* __restrict__ scales) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarpSize);
  const int64_t blocks = (elements + kBlockSize - 1) / kBlockSize;
  for (int64_t block = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarpSize) + threadIdx.x / kWarpSize; block < blocks;
       block += warps) {
    const bool full = (block + 1) * kBlockSize <= elements;
    const int64_t first = block * kBlockSize + lane * 2;
    float pair[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) pair[i] = first + i < elements ? Widen(weight[first + i]) : 0.0f;
    const float a = fabsf(pair[0]);
    const float b = fabsf(pair[1]);
    const float largest = WarpLargest(b > a || isnan(b) ? b : a);
    const float divisor = largest < kSmallestScale ? kSmallestScale : largest;
    const float factor = __frcp_rn(divisor);
    unsigned code[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      code[i] = NearestCode(full ? __fmul_rn(pair[i], factor) : __fdiv_rn(pair[i], divisor));
      if (first + i >= elements) code[i] = kPaddingCode;
    }
    if (first < elements) codes[first / 2] = static_cast<uint8_t>(code[0] << 4 | code[1]);
    if (lane == 0) scales[block] = full ? largest : divisor;
  }
}

/// REQUIRED: columns, stride and first_element multiples of 8, codes aligned to 4 bytes, out to 16.
template <typename T>
__global__ void DequantizeVectorKernel(CudaNf4Matrix matrix, const uint8_t* __restrict__ codes,
                                       const float* __restrict__ scales, T* __restrict__ out) {
  constexpr int kPack = kWide<T>;
  const int64_t packs_per_row = matrix.columns / kVector;
  const int64_t packs = matrix.rows * packs_per_row;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < packs;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t row = i / packs_per_row;
    const int64_t column = (i - row * packs_per_row) * kVector;
    const int64_t element = matrix.first_element + i * kVector;
    const auto bytes = *reinterpret_cast<const Pack<uint8_t, 4>*>(codes + element / 2);
    const float scale = scales[element / kBlockSize];
    T values[kVector];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      values[2 * b] = Narrow<T>(__fmul_rn(device_values.at[bytes.values[b] >> 4], scale));
      values[2 * b + 1] = Narrow<T>(__fmul_rn(device_values.at[bytes.values[b] & 15], scale));
    }
    T* target = out + row * matrix.stride + column;
#pragma unroll
    for (int v = 0; v < kVector; v += kPack) {
      Pack<T, kPack> pack;
#pragma unroll
      for (int k = 0; k < kPack; ++k) pack.values[k] = values[v + k];
      *reinterpret_cast<Pack<T, kPack>*>(target + v) = pack;
    }
  }
}

template <typename T>
__global__ void DequantizeKernel(CudaNf4Matrix matrix, const uint8_t* __restrict__ codes,
                                 const float* __restrict__ scales, T* __restrict__ out) {
  const int64_t total = matrix.rows * matrix.columns;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t row = i / matrix.columns;
    const int64_t element = matrix.first_element + i;
    const uint8_t pair = codes[element / 2];
    const int code = element % 2 == 0 ? pair >> 4 : pair & 15;
    out[row * matrix.stride + (i - row * matrix.columns)] =
        Narrow<T>(__fmul_rn(device_values.at[code], scales[element / kBlockSize]));
  }
}

/// One warp: each thread sums one lane of nf4_mean.h, the first puts them together.
__global__ void MeanKernel(int64_t count, const float* __restrict__ scales, float* __restrict__ offset) {
  __shared__ float lanes[kMeanVector * kMeanRows];
  const int64_t width = count >= kMeanVector ? kMeanVector : 1;
  const auto lane = static_cast<int64_t>(threadIdx.x);
  if (lane < width * kMeanRows) lanes[lane] = LaneSum(scales + lane, count / width / kMeanRows, width * kMeanRows);
  __syncwarp();
  if (lane == 0) *offset = MeanOfLanes(scales, count, lanes);
}

__device__ inline uint8_t NearestDynamicCode(float normalised) {
  if (isnan(normalised)) return 0;
  const float clamped = fminf(fmaxf(normalised, -1.0f), 1.0f);
  const float raised = __fmul_rn(__fadd_rn(clamped, 1.0f), 0.5f);
  const int step = static_cast<int>(__fadd_rn(__fmul_rn(raised, static_cast<float>(kDynamicSteps - 1)), 0.5f));
  const double value = __dadd_rn(__ddiv_rn(2.0 * step, static_cast<double>(kDynamicSteps - 1)), -1.0);
  int code = 0;
  for (int half = 128; half > 0; half /= 2) {
    const int middle = code + half - 1;
    const double midpoint =
        (static_cast<double>(device_map.at[middle]) + static_cast<double>(device_map.at[middle + 1])) / 2;
    if (midpoint < value) code += half;
  }
  return static_cast<uint8_t>(code);
}

/// A thread block per group of 256 scales, one scale per thread.
__global__ void QuantizeScalesKernel(int64_t blocks, const float* __restrict__ scales, const float* __restrict__ offset,
                                     uint8_t* __restrict__ scale_codes, float* __restrict__ group_scales) {
  __shared__ float of_warp[kGroupSize / kWarpSize];
  const int64_t groups = (blocks + kGroupSize - 1) / kGroupSize;
  for (int64_t group = blockIdx.x; group < groups; group += gridDim.x) {
    const int64_t i = group * kGroupSize + threadIdx.x;
    const float centred = i < blocks ? __fadd_rn(scales[i], -*offset) : 0.0f;
    const float largest_of_warp = WarpLargest(isnan(centred) ? 0.0f : fabsf(centred));
    __syncthreads();  // of_warp is still read by the group before
    if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = largest_of_warp;
    __syncthreads();
    float largest = 0.0f;
    for (const float value : of_warp) largest = fmaxf(largest, value);
    if (threadIdx.x == 0) group_scales[group] = largest;
    if (i < blocks) scale_codes[i] = NearestDynamicCode(__fmul_rn(centred, __frcp_rn(largest)));
  }
}

__global__ void DequantizeScalesKernel(int64_t blocks, const uint8_t* __restrict__ scale_codes,
                                       const float* __restrict__ group_scales, const float* __restrict__ offset,
                                       float* __restrict__ scales) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < blocks;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    scales[i] = __fadd_rn(__fmul_rn(device_map.at[scale_codes[i]], group_scales[i / kGroupSize]), *offset);
  }
}

template <typename T>
const char* Quantize(int64_t elements, const void* weight, uint8_t* codes, float* scales, cudaStream_t stream) {
  QuantizeKernel<T><<<Blocks(elements, kBlockSize * (kThreads / kWarpSize)), kThreads, 0, stream>>>(
      elements, static_cast<const T*>(weight), codes, scales);
  return LaunchResult();
}

template <typename T>
const char* Dequantize(const CudaNf4Matrix& matrix, const uint8_t* codes, const float* scales, void* out,
                       cudaStream_t stream) {
  T* target = static_cast<T*>(out);
  const int64_t elements = matrix.rows * matrix.columns;
  const bool vectors = matrix.columns % kVector == 0 && matrix.stride % kVector == 0 &&
                       matrix.first_element % kVector == 0 && reinterpret_cast<uintptr_t>(codes) % 4 == 0 &&
                       reinterpret_cast<uintptr_t>(out) % 16 == 0;
  if (vectors) {
    DequantizeVectorKernel<T>
        <<<Blocks(elements / kVector, kThreads), kThreads, 0, stream>>>(matrix, codes, scales, target);
  } else {
    DequantizeKernel<T><<<Blocks(elements, kThreads), kThreads, 0, stream>>>(matrix, codes, scales, target);
  }
  return LaunchResult();
}

}  // namespace

const char* LaunchQuantizeNf4(int64_t elements, int dtype, const void* weight, uint8_t* codes, float* scales,
                              void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case 0: return Quantize<float>(elements, weight, codes, scales, cuda_stream);
    case 1: return Quantize<__half>(elements, weight, codes, scales, cuda_stream);
    case 2: return Quantize<__nv_bfloat16>(elements, weight, codes, scales, cuda_stream);
    default: return "unknown dtype";
  }
}

const char* LaunchDequantizeNf4(const CudaNf4Matrix& matrix, int dtype, const uint8_t* codes, const float* scales,
                                void* out, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case 0: return Dequantize<float>(matrix, codes, scales, out, cuda_stream);
    case 1: return Dequantize<__half>(matrix, codes, scales, out, cuda_stream);
    case 2: return Dequantize<__nv_bfloat16>(matrix, codes, scales, out, cuda_stream);
    default: return "unknown dtype";
  }
}

const char* LaunchQuantizeScales(int64_t blocks, const float* scales, uint8_t* scale_codes, float* group_scales,
                                 float* offset, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  MeanKernel<<<1, kWarpSize, 0, cuda_stream>>>(blocks, scales, offset);
  if (const char* error = LaunchResult()) return error;
  QuantizeScalesKernel<<<Blocks(blocks, kGroupSize), static_cast<unsigned>(kGroupSize), 0, cuda_stream>>>(
      blocks, scales, offset, scale_codes, group_scales);
  return LaunchResult();
}

const char* LaunchDequantizeScales(int64_t blocks, const uint8_t* scale_codes, const float* group_scales,
                                   const float* offset, float* scales, void* stream) {
  DequantizeScalesKernel<<<Blocks(blocks, kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      blocks, scale_codes, group_scales, offset, scales);
  return LaunchResult();
}

}  // namespace sbora::kernels::internal
