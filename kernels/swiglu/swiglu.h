/// SwiGLU (arXiv 2002.05202) with its backward pass.
///     y = gate * s * up, s = 1 / (1 + e^-gate);  dup = g * gate * s;  dgate = g * up * s * (1 + gate * (1 - s))
/// One pass that reads each input once; the backward pass needs gate and up only.
///
/// Legend: T rows, F columns; matrices are row-major with a stride each, so that gate and up may be halves of one matrix.
/// Types: all of one dtype; arithmetic is float32 (reference: double), rounded once. gate = -infinity gives NaN.
/// Aliasing: outputs must not overlap inputs or each other. T = 0 or F = 0: no-op, pointers may be null.
/// Determinism: bitwise; on the CPU the same for every vector unit and every way of splitting.
/// Threading: reentrant, single-threaded on the CPU (split with Part); asynchronous on `stream` on CUDA.
/// Memory: no allocation.
/// Errors: INVALID_ARGUMENT (SWIGLU_SHAPE, SWIGLU_STRIDE, SWIGLU_POINTER: null or not aligned to its elements);
/// UNIMPLEMENTED CUDA_NOT_BUILT; INTERNAL CUDA_LAUNCH_FAILED with CUDA's text.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "kernels/swiglu/swiglu_arguments.h"
#include "kernels/types.h"

namespace sbora::kernels {

Status SwiGlu(Device device, const SwiGluArguments& arguments, Stream stream = nullptr);
Status SwiGluBackward(Device device, const SwiGluBackwardArguments& arguments, Stream stream = nullptr);

/// The rows [begin, end) of the same operation.
SwiGluArguments Part(const SwiGluArguments& arguments, int64_t begin, int64_t end);
SwiGluBackwardArguments Part(const SwiGluBackwardArguments& arguments, int64_t begin, int64_t end);

}  // namespace sbora::kernels
