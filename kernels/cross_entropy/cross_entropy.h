/// The cross-entropy of rows of logits, and its gradient in their place.
///     loss[s] = log sum_v e^x[s, v] - x[s, target[s]];  x[s, v] becomes softmax(x[s])[v] - (v == target[s])
/// A row comes from memory once and goes back once: between the passes (maximum, sum, quotient) it stays in the caches.
///
/// Legend: S rows, V columns (the vocabulary); logits_SV row-major with a stride; target_S and loss_S contiguous.
/// Types: logits of any dtype; arithmetic is float32 (reference: double), the gradient rounded once.
/// A target outside [0, V) makes its row's loss NaN, on every device: on CUDA targets are in device memory, so no call can
/// refuse it. So does a NaN or +infinity anywhere in the row, or -infinity everywhere.
/// Aliasing: none but the logits' own. S = 0 or V = 0: no-op, pointers may be null.
/// Determinism: bitwise; on the CPU the same for every vector unit and every way of splitting. No atomics.
/// Threading: reentrant, single-threaded on the CPU (split with Part); asynchronous on `stream` on CUDA.
/// Memory: no allocation.
/// Errors: INVALID_ARGUMENT (CROSS_ENTROPY_SHAPE, CROSS_ENTROPY_POINTER: null or not aligned to its elements);
/// UNIMPLEMENTED CUDA_NOT_BUILT; INTERNAL CUDA_LAUNCH_FAILED with CUDA's text.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "kernels/cross_entropy/cross_entropy_arguments.h"
#include "kernels/types.h"

namespace sbora::kernels {

Status CrossEntropy(Device device, const CrossEntropyArguments& arguments, Stream stream = nullptr);

/// The rows [begin, end) of the same operation.
CrossEntropyArguments Part(const CrossEntropyArguments& arguments, int64_t begin, int64_t end);

}  // namespace sbora::kernels
