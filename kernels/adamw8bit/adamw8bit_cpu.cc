// A block's moments are expanded into two small arrays, updated, used, and quantised again through a table of all 65536
// steps: the arrays stay in the first-level cache, and there is no search.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>

#include "kernels/adamw8bit/adamw8bit_internal.h"
#include "kernels/adamw8bit/adamw8bit_tables.h"

namespace sbora::kernels::internal {
namespace {

/// The nearest code of each step over [-1, 1].
using StepCodes = std::array<uint8_t, kDynamicSteps>;

std::unique_ptr<StepCodes> MakeStepCodes(const StepBounds& bounds) {
  auto codes = std::make_unique<StepCodes>();
  int code = 0;
  for (int step = 0; step < kDynamicSteps; ++step) {
    while (code < 255 && bounds.at[code] <= step) ++code;
    (*codes)[static_cast<size_t>(step)] = static_cast<uint8_t>(code);
  }
  return codes;
}

const StepCodes& SignedCodes() {
  static const StepCodes& codes = *MakeStepCodes(kDynamicBounds).release();
  return codes;
}

const StepCodes& UnsignedCodes() {
  static const StepCodes& codes = *MakeStepCodes(kUnsignedDynamicBounds).release();
  return codes;
}

void Expand(const DynamicMap& map, int64_t size, const uint8_t* codes, float scale, float* values) {
  for (int64_t i = 0; i < size; ++i) values[i] = map.at[codes[i]] * scale;
}

void Quantize(const StepCodes& step_codes, int64_t size, const float* values, uint8_t* codes, float* scale) {
  float largest = 0;
  for (int64_t i = 0; i < size; ++i) largest = std::max(largest, std::abs(values[i]));
  *scale = largest;
  const float factor = 1.0f / largest;
  for (int64_t i = 0; i < size; ++i) {
    const float normalised = values[i] * factor;
    if (std::isnan(normalised)) {
      codes[i] = 0;
      continue;
    }
    const float clamped = std::clamp(normalised, -1.0f, 1.0f);
    const auto step = static_cast<int>((clamped + 1.0f) * 0.5f * float{kDynamicSteps - 1} + 0.5f);
    codes[i] = step_codes[static_cast<size_t>(step)];
  }
}

void Update(const AdamWFactors& f, int64_t size, float* parameters, const float* gradients, float* m, float* v) {
  for (int64_t i = 0; i < size; ++i) {
    const float g = gradients[i];
    m[i] = m[i] * f.beta1 + g * f.one_minus_beta1;
    v[i] = v[i] * f.beta2 + f.one_minus_beta2 * g * g;
    const float divisor = std::sqrt(v[i]) / f.root_correction2 + f.epsilon;
    parameters[i] = parameters[i] * f.keep + f.negative_rate * (m[i] / divisor);
  }
}

}  // namespace

void UpdateAdamW8BitCpu(const AdamWFactors& factors, int64_t elements, float* parameters, const float* gradients,
                        const Moment8Bit& m, const Moment8Bit& v) {
  const StepCodes& signed_codes = SignedCodes();
  const StepCodes& unsigned_codes = UnsignedCodes();
  float first[kAdamW8BitBlock];
  float second[kAdamW8BitBlock];
  for (int64_t begin = 0; begin < elements; begin += kAdamW8BitBlock) {
    const int64_t size = std::min(kAdamW8BitBlock, elements - begin);
    const int64_t block = begin / kAdamW8BitBlock;
    Expand(kDynamicMap, size, m.codes + begin, m.scales[block], first);
    Expand(kUnsignedDynamicMap, size, v.codes + begin, v.scales[block], second);
    Update(factors, size, parameters + begin, gradients + begin, first, second);
    Quantize(signed_codes, size, first, m.codes + begin, m.scales + block);
    Quantize(unsigned_codes, size, second, v.codes + begin, v.scales + block);
  }
}

void UpdateAdamW32BitCpu(const AdamWFactors& factors, int64_t elements, float* parameters, const float* gradients, float* m,
                         float* v) {
  Update(factors, elements, parameters, gradients, m, v);
}

void DequantizeMomentCpu(MomentKind kind, int64_t elements, const uint8_t* codes, const float* scales, float* values) {
  const DynamicMap& map = kind == MomentKind::kFirst ? kDynamicMap : kUnsignedDynamicMap;
  for (int64_t begin = 0; begin < elements; begin += kAdamW8BitBlock) {
    Expand(map, std::min(kAdamW8BitBlock, elements - begin), codes + begin, scales[begin / kAdamW8BitBlock], values + begin);
  }
}

}  // namespace sbora::kernels::internal
