/// Dropout masks as a pure function of (seed, epoch, sample id, module, token position, feature).
///
/// mask = 0 with probability p, else 1 / (1 - p). Element (row t, feature f) is lane f % 4 of Philox4x32-10 at counter
/// (f / 4, position, module, sample low word), key = DeriveKey(...) of seed and epoch, XORed with the sample's high word.
/// FA asks for its r features only and gets the values that a mask over all features would have there.
/// Threading: pure. Part of the reproducibility contract: a change needs a new domain string.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/counter_rng.h"

namespace sbora::trainer::ops {

/// Who each row of a packed batch is.
struct DropoutRows {
  core::PhiloxKey key;               ///< from MakeDropoutKey
  std::vector<uint64_t> sample_T;
  std::vector<uint32_t> position_T;
};

/// How to mask an adapter's input in one pass; `rows` null means no dropout.
struct DropoutPlan {
  std::shared_ptr<const DropoutRows> rows = nullptr;  ///< shared: the backward nodes of all layers own it with the caller
  float probability = 0;
};

core::PhiloxKey MakeDropoutKey(uint64_t seed, int64_t epoch);

/// x_TR[t, j] *= mask(t, features[j]), in place. f32, bf16 or f16 on any device; contiguous.
void ApplyMaskToColumns(at::Tensor& x_TR, std::span<const int32_t> features, const DropoutRows& rows, uint32_t module,
                        float probability);

/// mask over all features [0, I), as a new tensor like x_TI.
at::Tensor FullMask(const at::Tensor& x_TI, const DropoutRows& rows, uint32_t module, float probability);

}  // namespace sbora::trainer::ops
