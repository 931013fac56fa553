/// RMSNorm (arXiv 1910.07467) with its backward passes, and the residual addition before it in the same pass.
///     n = x * inverse, inverse = 1 / sqrt(mean(x^2) + epsilon);  y = w * n
///     dx = inverse * (g w - n * mean(g w n)) + add;  dw += sum over rows of g * n
/// One pass over the rows each: a row stays in the first-level cache between its sum and its use.
///
/// Legend: T rows, H columns; all matrices row-major and contiguous, but for RmsNormWeightArguments::stride.
/// Types: x, add, w, y, grad, dx of one dtype; inverse and dw float32. Arithmetic is float32, rounded once at the end, with
/// two exceptions: x + add is rounded before it is normalised (it is the next layer's input), and n is rounded before
/// w multiplies it, as transformers has it. Sums are float32 (reference: double).
/// Aliasing: outputs must not overlap inputs. T = 0 or H = 0: no-op, pointers may be null.
/// Determinism: bitwise; on the CPU the same for every vector unit and every way of splitting. No atomics.
/// Threading: reentrant, single-threaded on the CPU (split with Part); asynchronous on `stream` on CUDA.
/// Memory: no allocation.
/// Errors: INVALID_ARGUMENT (RMS_NORM_SHAPE, RMS_NORM_EPSILON, RMS_NORM_POINTER: null or not aligned to its elements);
/// UNIMPLEMENTED CUDA_NOT_BUILT; INTERNAL CUDA_LAUNCH_FAILED with CUDA's text.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "kernels/rms_norm/rms_norm_arguments.h"
#include "kernels/types.h"

namespace sbora::kernels {

Status RmsNorm(Device device, const RmsNormArguments& arguments, Stream stream = nullptr);
Status RmsNormBackward(Device device, const RmsNormBackwardArguments& arguments, Stream stream = nullptr);
Status RmsNormWeightGradient(Device device, const RmsNormWeightArguments& arguments, Stream stream = nullptr);

/// The rows [begin, end) of the same operation.
RmsNormArguments Part(const RmsNormArguments& arguments, int64_t begin, int64_t end);
RmsNormBackwardArguments Part(const RmsNormBackwardArguments& arguments, int64_t begin, int64_t end);
/// The columns [begin, end): each has one writer.
RmsNormWeightArguments Part(const RmsNormWeightArguments& arguments, int64_t begin, int64_t end);

}  // namespace sbora::kernels
