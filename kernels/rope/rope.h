/// Rotary positions (arXiv 2104.09864) in Hugging Face's convention: elements i and i + D/2 of each head are a pair.
///     y[i] = x[i] cos[i] - x[i + D/2] sin[i];  y[i + D/2] = x[i + D/2] cos[i] + x[i] sin[i]
/// `inverse` turns by the negative angle, which is the gradient. cos and sin are computed once for each position and serve
/// all heads and layers.
///
/// Legend: T rows, N heads of D; x_TD [T, N * D] with a stride, so that it may be a part of a wider matrix; y_TD contiguous;
/// cos_TD2, sin_TD2 [T, D/2] float32, contiguous.
/// Types: x and y of one dtype; arithmetic is float32 (reference: double), rounded once.
/// Aliasing: y must not overlap the inputs. T, N or D = 0: no-op, pointers may be null.
/// Determinism: bitwise; on the CPU the same for every vector unit and every way of splitting.
/// Threading: reentrant, single-threaded on the CPU (split with Part); asynchronous on `stream` on CUDA.
/// Memory: no allocation.
/// Errors: INVALID_ARGUMENT (ROPE_SHAPE, ROPE_STRIDE, ROPE_POINTER: null or not aligned to its elements); UNIMPLEMENTED
/// CUDA_NOT_BUILT; INTERNAL CUDA_LAUNCH_FAILED with CUDA's text.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "kernels/rope/rope_arguments.h"
#include "kernels/types.h"

namespace sbora::kernels {

Status Rope(Device device, const RopeArguments& arguments, Stream stream = nullptr);

/// The rows [begin, end) of the same operation.
RopeArguments Part(const RopeArguments& arguments, int64_t begin, int64_t end);

}  // namespace sbora::kernels
