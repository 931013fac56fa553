/// adamw8bit: a step of AdamW whose moments are held in 8 bits (arXiv 2110.02861), as bitsandbytes' AdamW8bit computes it
/// on the CPU: the same codes, and scales and parameters to the last bits of f32 (docs/numerics.md). CPU and CUDA give the
/// same bits.
///
/// A tensor's elements are one sequence in blocks of 256; the last may be short. For each block and moment there is a
/// scale, the largest magnitude; an element is the nearest value of a dynamic map (m: signed, v: unsigned) times it.
///     m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2          with m, v de-quantised, f32
///     p = p (1 - rate decay) - rate / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
/// with the m and v of before they are quantised again. All arithmetic is f32, in this order, products and sums rounded
/// one after the other; the factors of a step are f64 rounded once.
/// Rules that decide bits: values are multiplied by 1 / scale, rounded to one of 65536 equal steps over [-1, 1], the step
/// to the nearest map value, downwards at a midpoint; what is NaN then (0 in a block of zeros) has code 0, and its value
/// is 0 because its scale is.
///
/// | data     | type | how many            |
/// | codes    | u8   | elements            |
/// | scales   | f32  | AdamW8BitBlocks(n)  |
/// Codes and scales of zero everywhere are moments of zero. Aliasing: none. Zero elements: no-op, pointers may be null.
/// `skip`: one f32 where the other pointers live; unless it is 0 everything stays as it is. Null: never.
/// Determinism: bitwise. Memory: none allocated, but 128 KiB of tables at the CPU's first call. Threading: reentrant; on the
/// CPU single-threaded (split a tensor at multiples of 256), on CUDA asynchronous on `stream`. kCpuReference is the CPU
/// path itself.
/// Errors: INVALID_ARGUMENT ADAMW8BIT_SHAPE, ADAMW8BIT_POINTER, ADAMW8BIT_STEP; UNIMPLEMENTED CUDA_NOT_BUILT in a build
/// without CUDA; INTERNAL CUDA_LAUNCH_FAILED.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "kernels/adamw_step.h"
#include "kernels/types.h"

namespace sbora::kernels {

inline constexpr int64_t kAdamW8BitBlock = 256;

constexpr int64_t AdamW8BitBlocks(int64_t elements) {
  return elements / kAdamW8BitBlock + (elements % kAdamW8BitBlock == 0 ? 0 : 1);
}

/// One moment of one tensor, or of a part that begins at a multiple of 256.
struct Moment8Bit {
  uint8_t* codes = nullptr;
  float* scales = nullptr;
};

/// parameters and gradients: [elements] f32; parameters, m and v are changed in place.
Status UpdateAdamW8Bit(Device device, const AdamWStep& step, int64_t elements, float* parameters, const float* gradients,
                       const Moment8Bit& m, const Moment8Bit& v, const float* skip = nullptr, Stream stream = nullptr);

/// The same step with f32 moments, for tensors too small to be worth 8 bits.
Status UpdateAdamW32Bit(Device device, const AdamWStep& step, int64_t elements, float* parameters, const float* gradients,
                        float* m, float* v, const float* skip = nullptr, Stream stream = nullptr);

/// codes -> values, as a step reads them. Errors: as above.
enum class MomentKind { kFirst, kSecond };
Status DequantizeMoment(Device device, MomentKind kind, int64_t elements, const uint8_t* codes, const float* scales,
                        float* values, Stream stream = nullptr);

}  // namespace sbora::kernels
