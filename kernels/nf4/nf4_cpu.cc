// Quantising happens once per base and is plain code. De-quantising happens at each use of a weight: a block's sixteen
// possible values are computed once, and each element is a look-up; with AVX-512 the look-up of sixteen floats is one
// instruction. The results are the same bits either way.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/dispatch.h"
#include "kernels/elements.h"
#include "kernels/nf4/nf4_internal.h"
#include "kernels/nf4/nf4_mean.h"
#include "kernels/nf4/nf4_tables.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sbora::kernels::internal {
namespace {

/// Four comparisons; NaN gets 15.
inline uint8_t NearestCode(float value) {
  int code = 0;
  for (int step = 8; step > 0; step /= 2) {
    if (!(kNf4Midpoints.at[code + step - 1] >= value)) code += step;
  }
  return static_cast<uint8_t>(code);
}

template <typename T>
void Quantize(int64_t elements, const void* weight, uint8_t* codes, float* scales) {
  const T* values = static_cast<const T*>(weight);
  for (int64_t begin = 0; begin < elements; begin += kNf4BlockSize) {
    const int64_t size = std::min(kNf4BlockSize, elements - begin);
    float block[kNf4BlockSize + 1];
    float largest = 0;
    bool nan = false;
    for (int64_t i = 0; i < size; ++i) {
      block[i] = Widen(values[begin + i]);
      nan |= std::isnan(block[i]);
      largest = std::max(largest, std::abs(block[i]));
    }
    if (nan) largest = std::nanf("");
    const float divisor = largest < kSmallestScale ? kSmallestScale : largest;
    if (size == kNf4BlockSize) {
      scales[begin / kNf4BlockSize] = largest;
      const float factor = 1.0f / divisor;
      for (int64_t i = 0; i < size; ++i) block[i] *= factor;
    } else {
      scales[begin / kNf4BlockSize] = divisor;
      for (int64_t i = 0; i < size; ++i) block[i] /= divisor;
    }
    block[size] = 0;  // pads an odd end; its code is kPaddingCode
    for (int64_t i = 0; i < size; i += 2) {
      codes[(begin + i) / 2] = static_cast<uint8_t>(NearestCode(block[i]) << 4 | NearestCode(block[i + 1]));
    }
  }
}

/// The sixteen values of a block.
template <typename T>
inline void BlockValues(float scale, T* values) {
  for (int code = 0; code < 16; ++code) values[code] = Narrow<T>(kNf4Values.at[code] * scale);
}

/// Elements [begin, end) of one block, which begins at a multiple of 64.
template <typename T>
inline void ExpandBlock(int64_t begin, int64_t end, const uint8_t* codes, float scale, T* out) {
  T values[16];
  BlockValues(scale, values);
  int64_t i = begin;
  if (i % 2 == 1 && i < end) *out++ = values[codes[i++ / 2] & 15];
  for (; i + 2 <= end; i += 2) {
    const uint8_t pair = codes[i / 2];
    *out++ = values[pair >> 4];
    *out++ = values[pair & 15];
  }
  if (i < end) *out = values[codes[i / 2] >> 4];
}

/// Elements [begin, end) of the weight.
template <typename T>
void Expand(int64_t begin, int64_t end, const uint8_t* codes, const float* scales, T* out) {
  while (begin < end) {
    const int64_t block_end = std::min(end, (begin / kNf4BlockSize + 1) * kNf4BlockSize);
    ExpandBlock(begin, block_end, codes, scales[begin / kNf4BlockSize], out);
    out += block_end - begin;
    begin = block_end;
  }
}

#if defined(__x86_64__)
/// Whole blocks in f32: 8 bytes are 16 codes, which select from a register.
__attribute__((target("avx512f"))) void ExpandBlocksAvx512(int64_t blocks, const uint8_t* codes, const float* scales,
                                                           float* out) {
  const __m512 table = _mm512_loadu_ps(kNf4Values.at);
  const __m128i low_half = _mm_set1_epi8(15);
  constexpr __mmask16 kAll = 0xFFFF;  // GCC 12 warns of uninitialised values in the forms without a mask
  for (int64_t block = 0; block < blocks; ++block) {
    const __m512 values = _mm512_mul_ps(table, _mm512_set1_ps(scales[block]));
    for (int i = 0; i < kNf4BlockSize; i += 16) {
      const __m128i pairs = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
      const __m128i high = _mm_and_si128(_mm_srli_epi16(pairs, 4), low_half);
      const __m128i in_order = _mm_unpacklo_epi8(high, _mm_and_si128(pairs, low_half));
      const __m512i index = _mm512_maskz_cvtepu8_epi32(kAll, in_order);
      _mm512_storeu_ps(out, _mm512_maskz_permutexvar_ps(kAll, index, values));
      codes += 8;
      out += 16;
    }
  }
}
#endif

/// As Expand, in f32: whole blocks through the vector code where the processor has it.
void ExpandFloats(int64_t begin, int64_t end, const uint8_t* codes, const float* scales, float* out) {
  const int64_t first = std::min(end, (begin + kNf4BlockSize - 1) / kNf4BlockSize * kNf4BlockSize);
  const int64_t whole = (end - first) / kNf4BlockSize;
  if (BestVectorUnit() != VectorUnit::kAvx512 || whole == 0) return Expand(begin, end, codes, scales, out);
#if defined(__x86_64__)
  Expand(begin, first, codes, scales, out);
  ExpandBlocksAvx512(whole, codes + first / 2, scales + first / kNf4BlockSize, out + (first - begin));
  const int64_t last = first + whole * kNf4BlockSize;
  Expand(last, end, codes, scales, out + (last - begin));
#endif
}

template <typename T, typename ExpandRange>
void ExpandRows(const Nf4Matrix& matrix, const uint8_t* codes, const float* scales, void* out, ExpandRange expand) {
  // Without a gap between rows the matrix is one sequence.
  const bool dense = matrix.stride == matrix.columns;
  const int64_t rows = dense ? 1 : matrix.rows;
  const int64_t columns = dense ? matrix.rows * matrix.columns : matrix.columns;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t begin = matrix.first_element + row * columns;
    expand(begin, begin + columns, codes, scales, static_cast<T*>(out) + row * matrix.stride);
  }
}

/// The map's nearest value to each step, through the midpoints: by bisection.
inline uint8_t NearestDynamicCode(float normalised) {
  if (std::isnan(normalised)) return 0;
  const float clamped = std::clamp(normalised, -1.0f, 1.0f);
  const int step = static_cast<int>((clamped + 1.0f) * 0.5f * float{kDynamicSteps - 1} + 0.5f);
  const double value = 2.0 * step / (kDynamicSteps - 1) - 1.0;
  int code = 0;
  for (int half = 128; half > 0; half /= 2) {
    const int middle = code + half - 1;
    if ((double{kDynamicMap.at[middle]} + double{kDynamicMap.at[middle + 1]}) / 2 < value) code += half;
  }
  return static_cast<uint8_t>(code);
}

}  // namespace

void QuantizeNf4Cpu(int64_t elements, DType dtype, const void* weight, uint8_t* codes, float* scales) {
  switch (dtype) {
    case DType::kF32: return Quantize<float>(elements, weight, codes, scales);
    case DType::kF16: return Quantize<Float16>(elements, weight, codes, scales);
    case DType::kBF16: return Quantize<BFloat16>(elements, weight, codes, scales);
  }
}

void DequantizeNf4Cpu(const Nf4Matrix& matrix, const uint8_t* codes, const float* scales, void* out_RC) {
  switch (matrix.dtype) {
    case DType::kF32: return ExpandRows<float>(matrix, codes, scales, out_RC, ExpandFloats);
    case DType::kF16: return ExpandRows<Float16>(matrix, codes, scales, out_RC, Expand<Float16>);
    case DType::kBF16: return ExpandRows<BFloat16>(matrix, codes, scales, out_RC, Expand<BFloat16>);
  }
}

void QuantizeScalesCpu(int64_t blocks, const float* scales, uint8_t* scale_codes, float* group_scales, float* offset) {
  const float mean = Mean(scales, blocks);
  *offset = mean;
  for (int64_t begin = 0; begin < blocks; begin += kNf4GroupSize) {
    const int64_t end = std::min(blocks, begin + kNf4GroupSize);
    float largest = 0;
    for (int64_t i = begin; i < end; ++i) {
      const float magnitude = std::abs(scales[i] - mean);
      largest = magnitude > largest ? magnitude : largest;  // passes over NaN
    }
    group_scales[begin / kNf4GroupSize] = largest;
    const float factor = 1.0f / largest;
    for (int64_t i = begin; i < end; ++i) scale_codes[i] = NearestDynamicCode((scales[i] - mean) * factor);
  }
}

void DequantizeScalesCpu(int64_t blocks, const uint8_t* scale_codes, const float* group_scales, float offset,
                         float* scales) {
  for (int64_t i = 0; i < blocks; ++i) {
    scales[i] = kDynamicMap.at[scale_codes[i]] * group_scales[i / kNf4GroupSize] + offset;
  }
}

}  // namespace sbora::kernels::internal
