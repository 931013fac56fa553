// A tile of 12 x 32 sums lives in 24 registers; each token brings 2 vectors of `right` and 12 numbers of `left`, which are
// broadcast. Operands are read in place. Tokens go in chunks: a chunk of `right` stays in the first cache while the tiles
// walk along `left`, and the cache lines of `left` serve neighbouring tiles.
#include <algorithm>

#include "kernels/factor_gradient/factor_gradient_internal.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sbora::kernels::internal {

#if defined(__x86_64__)
namespace {

constexpr int64_t kChunkTokens = 128;
constexpr int kLanes = 16;
constexpr int kTileRows = 12;
constexpr int kTileVectors = 2;
constexpr int64_t kTileColumns = kTileVectors * kLanes;
constexpr __mmask16 kAll = 0xFFFF;

struct Operands {
  int64_t tokens;
  const float* left;
  int64_t left_stride;
  const float* right;
  int64_t right_stride;
  float* out;
  int64_t out_stride;
  float scale;
};

/// out[0:kRows, 0:16 * kVectors] of these operands; of the last vector the lanes in `last`. Every loop over registers must
/// be unrolled: an index that is not a constant would put the sums into memory.
template <int kRows, int kVectors>
__attribute__((target("avx512f"))) void Tile(const Operands& p, __mmask16 last) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[m][v] = _mm512_setzero_ps();
  }
  const float* left = p.left;
  const float* right = p.right;
  for (int64_t t = 0; t < p.tokens; ++t) {
    __m512 row[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) row[v] = _mm512_maskz_loadu_ps(v + 1 < kVectors ? kAll : last, right + kLanes * v);
#pragma GCC unroll 12
    for (int m = 0; m < kRows; ++m) {
      const __m512 each = _mm512_set1_ps(left[m]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[m][v] = _mm512_fmadd_ps(each, row[v], sums[m][v]);
    }
    left += p.left_stride;
    right += p.right_stride;
  }
  const __m512 scale = _mm512_set1_ps(p.scale);
#pragma GCC unroll 12
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const __mmask16 lanes = v + 1 < kVectors ? kAll : last;
      float* const out = p.out + m * p.out_stride + kLanes * v;
      _mm512_mask_storeu_ps(out, lanes, _mm512_fmadd_ps(scale, sums[m][v], _mm512_maskz_loadu_ps(lanes, out)));
    }
  }
}

template <int kVectors>
void AllRows(Operands p, int64_t rows, __mmask16 last) {
  const auto run = [&](auto tile, int64_t height) {
    for (; rows >= height; rows -= height) {
      tile(p, last);
      p.left += height;
      p.out += height * p.out_stride;
    }
  };
  run(Tile<kTileRows, kVectors>, kTileRows);
  run(Tile<4, kVectors>, 4);
  run(Tile<1, kVectors>, 1);
}

}  // namespace

void FactorGradientAvx512(const FactorGradientShape& shape, const float* left, const float* right, float scale, float* out) {
  for (int64_t t = 0; t < shape.tokens; t += kChunkTokens) {
    for (int64_t n = 0; n < shape.columns; n += kTileColumns) {
      const Operands p{.tokens = std::min(kChunkTokens, shape.tokens - t),
                       .left = left + t * shape.left_stride, .left_stride = shape.left_stride,
                       .right = right + t * shape.right_stride + n, .right_stride = shape.right_stride,
                       .out = out + n, .out_stride = shape.out_stride, .scale = scale};
      const int64_t width = std::min(kTileColumns, shape.columns - n);
      const int64_t rest = width % kLanes;
      const auto last = rest == 0 ? kAll : static_cast<__mmask16>((1u << rest) - 1u);
      if (width > kLanes) {
        AllRows<kTileVectors>(p, shape.rows, last);
      } else {
        AllRows<1>(p, shape.rows, last);
      }
    }
  }
}
#else
void FactorGradientAvx512(const FactorGradientShape&, const float*, const float*, float, float*) {}  // HasFactorGradient says no
#endif

}  // namespace sbora::kernels::internal
