/// out += scale * left^T right for a tall left and right: an adapter factor's gradient, whose inner dimension is the tokens
/// and whose one outer dimension is the rank. A general matrix product copies both operands into its own layout first and
/// tiles for large outer dimensions; at r = 32 that takes twice as long as reading them in place.
///
/// | gradient    | left [T, M]        | right [T, N]       | out [M, N] |
/// | SBoRA-FA dB | g [T, O]           | x[:, idx] [T, R]   | [O, R]     |
/// | SBoRA-FB dA | g[:, idx] [T, R]   | x [T, I]           | [R, I]     |
/// | LoRA dB, dA | g [T, O]; gB [T,R] | z [T, R]; x [T, I] | as above   |
/// Row-major, with strides of at least M, N and N elements. Types: float32. Aliasing: out must not overlap an operand.
/// T, M or N = 0: no-op. Determinism: bitwise per build; each element is summed over t in the same order whatever part of
/// `out` a call computes, so split it among threads by rows or columns as you like.
/// Threading: reentrant, single-threaded. Memory: no allocation.
/// Errors: INVALID_ARGUMENT FACTOR_GRADIENT_SHAPE.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "kernels/types.h"

namespace sbora::kernels {

struct FactorGradientShape {
  int64_t tokens = 0;        ///< T
  int64_t rows = 0;          ///< M
  int64_t columns = 0;       ///< N
  int64_t left_stride = 0;   ///< elements
  int64_t right_stride = 0;  ///< elements
  int64_t out_stride = 0;    ///< elements
};

/// kCpuReference: always. kCpu: on processors with AVX-512, for which it is written. kCuda: no; cuBLAS does it well.
bool HasFactorGradient(Device device);

/// REQUIRED: HasFactorGradient(device).
Status FactorGradient(Device device, const FactorGradientShape& shape, const float* left_TM, const float* right_TN,
                      float scale, float* out_MN);

}  // namespace sbora::kernels
