/// One weight into NF4 (kernels/nf4/nf4.h), on several threads. Torch-free.
#pragma once

#include <cstdint>
#include <functional>

#include "common/status.h"
#include "core/nf4_model.h"
#include "core/safetensors.h"

namespace sbora::trainer {

/// `weight`: F32, F16 or BF16. The bytes do not depend on `threads`, which share the blocks.
/// Errors: INVALID_ARGUMENT DTYPE_UNSUPPORTED; NF4_SCALE naming the elements that hold a value that is not finite.
StatusOr<core::Nf4Parts> QuantizeWeight(const core::TensorView& weight, bool double_quantization, int threads);

/// Calls work(first_block, end_block) for pieces of [0, blocks), each on a thread of its own, and waits for all.
void OverNf4Blocks(int64_t blocks, int threads, const std::function<void(int64_t first_block, int64_t end_block)>& work);

}  // namespace sbora::trainer
