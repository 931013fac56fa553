/// A step of AdamW (arXiv 1711.05101) over a flat float32 buffer, in torch.optim.AdamW's arithmetic: clipping, both moments
/// and the update in one pass, which reads and writes each number once.
///     g = factor * gradient;  p = p (1 - rate decay);  m = m + (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2
///     p = p - rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
/// The clipping factor and the flag that skips the step are read where they were computed: on CUDA the host needs to know
/// neither.
///
/// Types: float32 in this order, products and sums rounded one after the other on the CPU (reference: double, each stored
/// number rounded once); the step's factors are double, rounded once.
/// Aliasing: none. Zero elements: no-op, pointers may be null. What is not a number spreads to its own element only.
/// Determinism: bitwise; on the CPU the same for every vector unit and every way of splitting.
/// Threading: reentrant, single-threaded on the CPU (split with Part); asynchronous on `stream` on CUDA.
/// Memory: no allocation.
/// Errors: INVALID_ARGUMENT (ADAMW_SHAPE, ADAMW_STEP, ADAMW_POINTER: null or not aligned to its elements); UNIMPLEMENTED
/// CUDA_NOT_BUILT; INTERNAL CUDA_LAUNCH_FAILED with CUDA's text.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "kernels/adamw/adamw_arguments.h"
#include "kernels/types.h"

namespace sbora::kernels {

Status UpdateAdamW(Device device, const AdamWArguments& arguments, Stream stream = nullptr);

/// The elements [begin, end) of the same operation.
AdamWArguments Part(const AdamWArguments& arguments, int64_t begin, int64_t end);

}  // namespace sbora::kernels
