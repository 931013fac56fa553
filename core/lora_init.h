/// A at step 0 of LoRA and DoRA (B starts at zero), as a pure function of (seed, module name, r, k, kind).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/adapter.h"

namespace sbora::core {

/// A [rank, in_features], row-major. Numbers come from Philox4x32-10 keyed by DeriveKey(domain, seed, module_name).
/// kNone and kRandom: Kaiming-uniform with a = sqrt(5), PEFT's choice for LoRA: uniform in [-1/sqrt(k), 1/sqrt(k));
/// domain "sbora.lora_a.v1"; the same bits on every machine.
/// kOrthonormal: A A^T = I. Rows of near-normal numbers (domain "sbora.lora_a_orthonormal.v1"), then Gram-Schmidt twice
/// in double in a fixed order, rounded once to float32: only a compiler that fuses products and sums can change a bit.
/// A change of any draw needs new domains: a stored seed must go on to mean the same A.
/// REQUIRED: 1 <= rank, 1 <= in_features; for kOrthonormal rank <= in_features. Cost of kOrthonormal: 4 rank^2 k flops.
std::vector<float> DrawLoraA(uint64_t seed, std::string_view module_name, int64_t rank, int64_t in_features,
                             FrozenFactor kind);

}  // namespace sbora::core
