/// sampleMul: multiplying by a one-hot matrix that is kept as an index vector (arXiv 2407.05413, section 3). A gather
/// or a scatter-add of r columns costs T x r element moves where the product costs T x k x r multiplications.
///
/// | use                                   | call                                        |
/// | SBoRA-FA forward, its dB              | GatherColumns: x[:, idx]                    |
/// | SBoRA-FA input gradient               | ScatterAddColumns: dx[:, idx] += s * (g B)  |
/// | SBoRA-FB forward                      | ScatterAddColumns: h[:, idx] += s * (x A^T) |
/// | SBoRA-FB input gradient, its dA       | GatherColumns: g[:, idx]                    |
/// | SBoRA-FA merged into W0               | WriteColumns: W[:, idx] = W0[:, idx] + s B  |
///
/// Legend: T rows, C columns of the wide matrix, R indices. wide_TC is row-major with wide_stride >= C elements from
/// row to row; narrow_TR likewise with narrow_stride >= R. idx_R int32 in [0, C), distinct: validate it once with
/// CheckIndex when it arrives; the calls below check shapes only, since on CUDA the indices are in device memory.
/// Types: wide and narrow of one dtype; the sum of one element is formed in float32 (reference: double), rounded once.
/// Aliasing: wide and narrow must not overlap. T = 0 or R = 0: no-op, pointers may be null.
/// Determinism: bitwise, on every device: each output element has exactly one writer, no atomics.
/// Threading: reentrant, single-threaded on the CPU (split rows among threads); asynchronous on `stream` on CUDA.
/// Memory: no allocation.
/// Errors: INVALID_ARGUMENT (SAMPLE_MUL_SHAPE, SAMPLE_MUL_POINTER, SAMPLE_MUL_STRIDE); UNIMPLEMENTED CUDA_NOT_BUILT;
/// INTERNAL CUDA_LAUNCH_FAILED with CUDA's text.
#pragma once

#include <cstdint>
#include <span>

#include "common/status.h"
#include "kernels/types.h"

namespace sbora::kernels {

struct SampleMulShape {
  int64_t rows = 0;           ///< T
  int64_t wide_columns = 0;   ///< C
  int64_t wide_stride = 0;    ///< elements
  int64_t indices = 0;        ///< R
  int64_t narrow_stride = 0;  ///< elements
  DType dtype = DType::kF32;
};

/// In range and distinct. Errors: INVALID_ARGUMENT INDEX_OUT_OF_RANGE, INDEX_REPEATED, naming position and value.
/// O(R log R), allocates.
Status CheckIndex(std::span<const int32_t> idx_R, int64_t columns);

/// narrow[t, j] = wide[t, idx[j]].
Status GatherColumns(Device device, const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R,
                     void* narrow_TR, Stream stream = nullptr);

/// wide[t, idx[j]] += scale * narrow[t, j].
Status ScatterAddColumns(Device device, const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R,
                         const void* narrow_TR, float scale, Stream stream = nullptr);

/// wide[t, idx[j]] = narrow[t, j] + scale * factor[t, j]. factor_TR is float32 and has narrow's stride. It sets and never
/// adds: written again and again, the columns are what one write makes of them.
Status WriteColumns(Device device, const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R, const void* narrow_TR,
                    const float* factor_TR, float scale, Stream stream = nullptr);

}  // namespace sbora::kernels
