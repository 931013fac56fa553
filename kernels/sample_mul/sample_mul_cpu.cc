// One pass over the rows; the index vector stays in the first-level cache and each row's columns are read in ascending
// order. Unrolled by four so that the loads overlap: the work is latency, not arithmetic.
#include "kernels/elements.h"
#include "kernels/sample_mul/sample_mul_internal.h"

namespace sbora::kernels::internal {
namespace {

template <typename T>
void Gather(const SampleMulShape& shape, const void* wide, const int32_t* __restrict idx, void* narrow) {
  for (int64_t t = 0; t < shape.rows; ++t) {
    const T* __restrict source = static_cast<const T*>(wide) + t * shape.wide_stride;
    T* __restrict target = static_cast<T*>(narrow) + t * shape.narrow_stride;
    int64_t j = 0;
    for (; j + 4 <= shape.indices; j += 4) {
      const T a = source[idx[j]];
      const T b = source[idx[j + 1]];
      const T c = source[idx[j + 2]];
      const T d = source[idx[j + 3]];
      target[j] = a;
      target[j + 1] = b;
      target[j + 2] = c;
      target[j + 3] = d;
    }
    for (; j < shape.indices; ++j) target[j] = source[idx[j]];
  }
}

template <typename T>
void ScatterAdd(const SampleMulShape& shape, void* wide, const int32_t* __restrict idx, const void* narrow,
                float scale) {
  for (int64_t t = 0; t < shape.rows; ++t) {
    T* __restrict target = static_cast<T*>(wide) + t * shape.wide_stride;
    const T* __restrict source = static_cast<const T*>(narrow) + t * shape.narrow_stride;
    int64_t j = 0;
    for (; j + 4 <= shape.indices; j += 4) {
      // Indices are distinct, so the four sums are independent.
      const float a = Widen(target[idx[j]]) + scale * Widen(source[j]);
      const float b = Widen(target[idx[j + 1]]) + scale * Widen(source[j + 1]);
      const float c = Widen(target[idx[j + 2]]) + scale * Widen(source[j + 2]);
      const float d = Widen(target[idx[j + 3]]) + scale * Widen(source[j + 3]);
      target[idx[j]] = Narrow<T>(a);
      target[idx[j + 1]] = Narrow<T>(b);
      target[idx[j + 2]] = Narrow<T>(c);
      target[idx[j + 3]] = Narrow<T>(d);
    }
    for (; j < shape.indices; ++j) {
      target[idx[j]] = Narrow<T>(Widen(target[idx[j]]) + scale * Widen(source[j]));
    }
  }
}

template <typename T>
void Write(const SampleMulShape& shape, void* wide, const int32_t* __restrict idx, const void* narrow,
           const float* __restrict factor, float scale) {
  for (int64_t t = 0; t < shape.rows; ++t) {
    T* __restrict target = static_cast<T*>(wide) + t * shape.wide_stride;
    const T* __restrict source = static_cast<const T*>(narrow) + t * shape.narrow_stride;
    const float* __restrict change = factor + t * shape.narrow_stride;
    for (int64_t j = 0; j < shape.indices; ++j) target[idx[j]] = Narrow<T>(Widen(source[j]) + scale * change[j]);
  }
}

}  // namespace

void GatherColumnsCpu(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, void* narrow_TR) {
  switch (shape.dtype) {
    case DType::kF32: return Gather<float>(shape, wide_TC, idx_R, narrow_TR);
    case DType::kF16: return Gather<Float16>(shape, wide_TC, idx_R, narrow_TR);
    case DType::kBF16: return Gather<BFloat16>(shape, wide_TC, idx_R, narrow_TR);
  }
}

void ScatterAddColumnsCpu(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R, const void* narrow_TR,
                          float scale) {
  switch (shape.dtype) {
    case DType::kF32: return ScatterAdd<float>(shape, wide_TC, idx_R, narrow_TR, scale);
    case DType::kF16: return ScatterAdd<Float16>(shape, wide_TC, idx_R, narrow_TR, scale);
    case DType::kBF16: return ScatterAdd<BFloat16>(shape, wide_TC, idx_R, narrow_TR, scale);
  }
}

void WriteColumnsCpu(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R, const void* narrow_TR,
                     const float* factor_TR, float scale) {
  switch (shape.dtype) {
    case DType::kF32: return Write<float>(shape, wide_TC, idx_R, narrow_TR, factor_TR, scale);
    case DType::kF16: return Write<Float16>(shape, wide_TC, idx_R, narrow_TR, factor_TR, scale);
    case DType::kBF16: return Write<BFloat16>(shape, wide_TC, idx_R, narrow_TR, factor_TR, scale);
  }
}

}  // namespace sbora::kernels::internal
