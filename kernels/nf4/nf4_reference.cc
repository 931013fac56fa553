// The obvious loops, one element at a time: what the other backends are compared with. Products are exact in double and
// rounded once.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/elements.h"
#include "kernels/nf4/nf4_internal.h"
#include "kernels/nf4/nf4_mean.h"
#include "kernels/nf4/nf4_tables.h"

namespace sbora::kernels::internal {
namespace {

float Load(DType dtype, const void* data, int64_t i) {
  switch (dtype) {
    case DType::kF32: return static_cast<const float*>(data)[i];
    case DType::kF16: return Widen(static_cast<const Float16*>(data)[i]);
    case DType::kBF16: return Widen(static_cast<const BFloat16*>(data)[i]);
  }
  return 0;
}

void Store(DType dtype, void* data, int64_t i, float value) {
  switch (dtype) {
    case DType::kF32: static_cast<float*>(data)[i] = value; return;
    case DType::kF16: static_cast<Float16*>(data)[i] = Narrow<Float16>(value); return;
    case DType::kBF16: static_cast<BFloat16*>(data)[i] = Narrow<BFloat16>(value); return;
  }
}

/// Largest magnitude; NaN when any is.
float LargestMagnitude(const std::vector<float>& values) {
  float largest = 0;
  for (const float value : values) {
    if (std::isnan(value)) return value;
    largest = std::max(largest, std::abs(value));
  }
  return largest;
}

/// The number of midpoints below `value`; NaN lies behind all of them.
uint8_t NearestCode(float value) {
  uint8_t code = 0;
  for (const float midpoint : kNf4Midpoints.at) code = static_cast<uint8_t>(code + (midpoint >= value ? 0 : 1));
  return code;
}

uint8_t NearestDynamicCode(float normalised) {
  if (std::isnan(normalised)) return 0;
  const float clamped = std::clamp(normalised, -1.0f, 1.0f);
  const float raised = (clamped + 1.0f) * 0.5f;
  const float position = raised * float{kDynamicSteps - 1};
  const int step = static_cast<int>(position + 0.5f);
  const double value = 2.0 * step / (kDynamicSteps - 1) - 1.0;
  int nearest = 0;
  for (int i = 1; i < 256; ++i) {
    if (std::abs(value - double{kDynamicMap.at[i]}) < std::abs(value - double{kDynamicMap.at[nearest]})) nearest = i;
  }
  return static_cast<uint8_t>(nearest);
}

}  // namespace

void QuantizeNf4Reference(int64_t elements, DType dtype, const void* weight, uint8_t* codes, float* scales) {
  for (int64_t begin = 0; begin < elements; begin += kNf4BlockSize) {
    const bool full = begin + kNf4BlockSize <= elements;
    std::vector<float> block;
    for (int64_t i = begin; i < std::min(elements, begin + kNf4BlockSize); ++i) block.push_back(Load(dtype, weight, i));
    const float largest = LargestMagnitude(block);
    const float divisor = largest < kSmallestScale ? kSmallestScale : largest;
    scales[begin / kNf4BlockSize] = full ? largest : divisor;
    for (size_t i = 0; i < block.size(); ++i) {
      const float scaled = full ? block[i] * (1.0f / divisor) : block[i] / divisor;
      const auto code = NearestCode(scaled);  // values outside [-1, 1] get the codes of its ends
      uint8_t& pair = codes[(begin + static_cast<int64_t>(i)) / 2];
      pair = static_cast<uint8_t>(i % 2 == 0 ? code << 4 | kPaddingCode : (pair & 0xF0) | code);
    }
  }
}

void DequantizeNf4Reference(const Nf4Matrix& matrix, const uint8_t* codes, const float* scales, void* out_RC) {
  for (int64_t row = 0; row < matrix.rows; ++row) {
    for (int64_t column = 0; column < matrix.columns; ++column) {
      const int64_t element = matrix.first_element + row * matrix.columns + column;
      const int code = element % 2 == 0 ? codes[element / 2] >> 4 : codes[element / 2] & 15;
      const double value = double{kNf4Values.at[code]} * double{scales[element / kNf4BlockSize]};
      Store(matrix.dtype, out_RC, row * matrix.stride + column, static_cast<float>(value));
    }
  }
}

void QuantizeScalesReference(int64_t blocks, const float* scales, uint8_t* scale_codes, float* group_scales,
                             float* offset) {
  *offset = Mean(scales, blocks);
  for (int64_t begin = 0; begin < blocks; begin += kNf4GroupSize) {
    const int64_t end = std::min(blocks, begin + kNf4GroupSize);
    float largest = 0;
    for (int64_t i = begin; i < end; ++i) {
      const float centred = scales[i] - *offset;
      if (!std::isnan(centred)) largest = std::max(largest, std::abs(centred));
    }
    group_scales[begin / kNf4GroupSize] = largest;
    for (int64_t i = begin; i < end; ++i) scale_codes[i] = NearestDynamicCode((scales[i] - *offset) * (1.0f / largest));
  }
}

void DequantizeScalesReference(int64_t blocks, const uint8_t* scale_codes, const float* group_scales, float offset,
                               float* scales) {
  for (int64_t i = 0; i < blocks; ++i) {
    const double product = double{kDynamicMap.at[scale_codes[i]]} * double{group_scales[i / kNf4GroupSize]};
    scales[i] = static_cast<float>(product) + offset;
  }
}

}  // namespace sbora::kernels::internal
