/// nf4: weights in 4 bits, as QLoRA holds a frozen base (arXiv 2305.14314, section 3), bit for bit as bitsandbytes 0.50
/// computes it on the CPU (scripts/numerics/make_nf4_reference.py; docs/numerics.md).
///
/// A weight is read as one row-major sequence of n elements in blocks of 64 that run on across rows; the last may be
/// short. A block has a scale, its largest magnitude; an element is the nearest of 16 NormalFloat values times it.
/// | data         | type | how many           | what                                                                |
/// | codes        | u8   | Nf4CodeBytes(n)    | two codes per byte, the earlier in the high half; an odd n is padded |
/// | scales       | f32  | Nf4Blocks(n)       | of the blocks                                                       |
/// | scale codes  | u8   | Nf4Blocks(n)       | double quantisation: 8-bit dynamic codes of scale - offset          |
/// | group scales | f32  | Nf4Groups(blocks)  | largest |scale - offset| of each 256 scales                         |
/// | offset       | f32  | 1                  | mean of the scales, summed in the order of nf4_mean.h               |
/// Rules that decide bits: an element maps to the lower of two codes at a midpoint; full blocks multiply by 1 / scale,
/// the short one divides; a scale below 1e-38 counts as 1e-38 in that step, and is stored as 1e-38 in the short block
/// only. NaN in a block makes its scale NaN and its codes 15; an infinity makes the scale infinite: callers that keep
/// weights check the scales with CheckScales.
///
/// Legend: R rows, C columns of a de-quantised matrix. Weights are f32, f16 or bf16, widened to f32 first; de-quantised
/// values are the f32 product of code value and scale, rounded once to the output's type.
/// Aliasing: inputs and outputs must not overlap. Zero elements: no-op, pointers may be null.
/// Determinism: bitwise, the same on every device. Memory: no allocation.
/// Threading: reentrant, single-threaded on the CPU (split a weight at multiples of 64 elements, a matrix at rows);
/// asynchronous on `stream` on CUDA, where all pointers are device memory.
/// Errors: INVALID_ARGUMENT (NF4_SHAPE, NF4_STRIDE, NF4_POINTER); UNIMPLEMENTED CUDA_NOT_BUILT; INTERNAL
/// CUDA_LAUNCH_FAILED with CUDA's text.
#pragma once

#include <cstdint>
#include <span>

#include "common/status.h"
#include "kernels/types.h"

namespace sbora::kernels {

inline constexpr int64_t kNf4BlockSize = 64;   ///< elements with one scale
inline constexpr int64_t kNf4GroupSize = 256;  ///< scales with one group scale

constexpr int64_t Nf4CodeBytes(int64_t elements) { return elements / 2 + elements % 2; }
constexpr int64_t Nf4Blocks(int64_t elements) {
  return elements / kNf4BlockSize + (elements % kNf4BlockSize == 0 ? 0 : 1);
}
constexpr int64_t Nf4Groups(int64_t blocks) { return blocks / kNf4GroupSize + (blocks % kNf4GroupSize == 0 ? 0 : 1); }

/// Where de-quantised values go: R x C, row by row `stride` elements apart, for example the left part of an augmented
/// matrix [W0 | s B]. Elements between columns and stride are not touched.
struct Nf4Matrix {
  int64_t rows = 0;           ///< R
  int64_t columns = 0;        ///< C
  int64_t stride = 0;         ///< elements; at least columns
  int64_t first_element = 0;  ///< place of the first value in the weight's sequence: row * C for a part of the rows
  DType dtype = DType::kF32;
};

/// weight [elements] -> codes, scales.
Status QuantizeNf4(Device device, int64_t elements, DType dtype, const void* weight, uint8_t* codes, float* scales,
                   Stream stream = nullptr);

/// `codes` and `scales` are those of the whole weight, also when `matrix` is a part of it.
Status DequantizeNf4(Device device, const Nf4Matrix& matrix, const uint8_t* codes, const float* scales, void* out_RC,
                     Stream stream = nullptr);

/// Double quantisation: scales [blocks] -> scale codes, group scales, offset.
Status QuantizeScales(Device device, int64_t blocks, const float* scales, uint8_t* scale_codes, float* group_scales,
                      float* offset, Stream stream = nullptr);

/// Its inverse: code value * group scale, then + offset, each rounded to f32.
Status DequantizeScales(Device device, int64_t blocks, const uint8_t* scale_codes, const float* group_scales,
                        const float* offset, float* scales, Stream stream = nullptr);

/// On the CPU. Errors: INVALID_ARGUMENT NF4_SCALE naming the first scale that is not finite, or is negative.
Status CheckScales(std::span<const float> scales);

}  // namespace sbora::kernels
