/// Plain loops on the CPU's vector units: one body is compiled for AVX-512, for AVX2 and for the baseline, and the widest
/// that the processor has is picked at run time.
///
///     struct Square {
///       template <typename T>
///       static void Run(const Arguments& a) { for (int64_t i = 0; i < a.count; ++i) ...Widen(a.x[i])... }
///     };
///     Vectorized<Square>(unit, DType::kF32, arguments);
///
/// The loops must be such that the compiler vectorises them (element by element, or Sum and Largest below), in a target
/// with the options of sbora_vector_kernel. No product is fused with a sum and sums have a fixed order, so all units give
/// the same bits. For the *_cpu.cc files.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/elements.h"
#include "kernels/types.h"

namespace sbora::kernels::internal {

#if defined(__x86_64__)
#if defined(__clang__)
#define SBORA_AVX512 "avx512f,avx512bw,avx512dq,avx512vl"
#else
#define SBORA_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"
#endif

template <auto kBody, typename Arguments>
__attribute__((target(SBORA_AVX512), flatten, noinline)) void RunAvx512(const Arguments& arguments) {
  kBody(arguments);
}
template <auto kBody, typename Arguments>
__attribute__((target("avx2"), flatten, noinline)) void RunAvx2(const Arguments& arguments) {
  kBody(arguments);
}
#undef SBORA_AVX512
#endif
template <auto kBody, typename Arguments>
__attribute__((flatten, noinline)) void RunBaseline(const Arguments& arguments) {
  kBody(arguments);
}

/// REQUIRED: the processor has `unit`.
template <auto kBody, typename Arguments>
void RunOn(VectorUnit unit, const Arguments& arguments) {
#if defined(__x86_64__)
  if (unit == VectorUnit::kAvx512) return RunAvx512<kBody, Arguments>(arguments);
  if (unit == VectorUnit::kAvx2) return RunAvx2<kBody, Arguments>(arguments);
#endif
  RunBaseline<kBody, Arguments>(arguments);
}

template <typename Kernel, typename Arguments>
void Vectorized(VectorUnit unit, DType dtype, const Arguments& arguments) {
  switch (dtype) {
    case DType::kF32: return RunOn<&Kernel::template Run<float>>(unit, arguments);
    case DType::kF16: return RunOn<&Kernel::template Run<Float16>>(unit, arguments);
    case DType::kBF16: return RunOn<&Kernel::template Run<BFloat16>>(unit, arguments);
  }
}

inline constexpr int kSumLanes = 64;  // four registers of the widest unit: enough to hide an addition's latency

/// f(0) + ... + f(n - 1) in float32: 64 sums of every 64th term, which are then added by halves.
template <typename F>
inline float Sum(int64_t n, const F& f) {
  float lanes[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) {
    for (int l = 0; l < kSumLanes; ++l) lanes[l] += f(i + l);
  }
  for (int l = 0; i + l < n; ++l) lanes[l] += f(i + l);
  for (int half = kSumLanes / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

/// The largest of f(0) ... f(n - 1) that is a number; -infinity for none.
template <typename F>
inline float Largest(int64_t n, const F& f) {
  constexpr float kNone = -std::bit_cast<float>(0x7F800000u);
  float lanes[kSumLanes];
  for (float& lane : lanes) lane = kNone;
  const auto larger = [](float a, float b) { return b > a ? b : a; };
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) {
    for (int l = 0; l < kSumLanes; ++l) lanes[l] = larger(lanes[l], f(i + l));
  }
  for (int l = 0; i + l < n; ++l) lanes[l] = larger(lanes[l], f(i + l));
  float largest = kNone;
  for (const float lane : lanes) largest = larger(largest, lane);
  return largest;
}

/// e^x within one unit in the last place; 0 below -104, infinity above 88.8, NaN stays NaN. Cephes' expf: x = k ln 2 + r,
/// and a polynomial in r.
inline float Exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  float bounded = x < -104.0f ? -104.0f : x;
  bounded = bounded > 89.0f ? 89.0f : bounded;
  const float shifted = bounded * 1.44269504088896341f + kRound;
  const float k = shifted - kRound;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const float r = (bounded - k * 0.693359375f) - k * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2^exponent as two factors: it may be subnormal, or too large for one.
  const int32_t half = exponent >> 1;
  return p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((exponent - half + 127) << 23);
}

/// 1 / (1 + e^-x).
inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

}  // namespace sbora::kernels::internal
