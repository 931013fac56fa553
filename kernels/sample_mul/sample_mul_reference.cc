// The obvious loops, sums in double: what the other backends are compared with.
#include "kernels/elements.h"
#include "kernels/sample_mul/sample_mul_internal.h"

namespace sbora::kernels::internal {
namespace {

template <typename T>
void Gather(const SampleMulShape& shape, const void* wide, const int32_t* idx, void* narrow) {
  for (int64_t t = 0; t < shape.rows; ++t) {
    for (int64_t j = 0; j < shape.indices; ++j) {
      static_cast<T*>(narrow)[t * shape.narrow_stride + j] = static_cast<const T*>(wide)[t * shape.wide_stride + idx[j]];
    }
  }
}

template <typename T>
void ScatterAdd(const SampleMulShape& shape, void* wide, const int32_t* idx, const void* narrow, float scale) {
  for (int64_t t = 0; t < shape.rows; ++t) {
    for (int64_t j = 0; j < shape.indices; ++j) {
      T& target = static_cast<T*>(wide)[t * shape.wide_stride + idx[j]];
      const double product = double{scale} * double{Widen(static_cast<const T*>(narrow)[t * shape.narrow_stride + j])};
      target = Narrow<T>(static_cast<float>(double{Widen(target)} + product));
    }
  }
}

template <typename T>
void Write(const SampleMulShape& shape, void* wide, const int32_t* idx, const void* narrow, const float* factor,
           float scale) {
  for (int64_t t = 0; t < shape.rows; ++t) {
    for (int64_t j = 0; j < shape.indices; ++j) {
      const int64_t at = t * shape.narrow_stride + j;
      const double sum = double{Widen(static_cast<const T*>(narrow)[at])} + double{scale} * double{factor[at]};
      static_cast<T*>(wide)[t * shape.wide_stride + idx[j]] = Narrow<T>(static_cast<float>(sum));
    }
  }
}

}  // namespace

void GatherColumnsReference(const SampleMulShape& shape, const void* wide_TC, const int32_t* idx_R, void* narrow_TR) {
  switch (shape.dtype) {
    case DType::kF32: return Gather<float>(shape, wide_TC, idx_R, narrow_TR);
    case DType::kF16: return Gather<Float16>(shape, wide_TC, idx_R, narrow_TR);
    case DType::kBF16: return Gather<BFloat16>(shape, wide_TC, idx_R, narrow_TR);
  }
}

void ScatterAddColumnsReference(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R,
                                const void* narrow_TR, float scale) {
  switch (shape.dtype) {
    case DType::kF32: return ScatterAdd<float>(shape, wide_TC, idx_R, narrow_TR, scale);
    case DType::kF16: return ScatterAdd<Float16>(shape, wide_TC, idx_R, narrow_TR, scale);
    case DType::kBF16: return ScatterAdd<BFloat16>(shape, wide_TC, idx_R, narrow_TR, scale);
  }
}

void WriteColumnsReference(const SampleMulShape& shape, void* wide_TC, const int32_t* idx_R, const void* narrow_TR,
                           const float* factor_TR, float scale) {
  switch (shape.dtype) {
    case DType::kF32: return Write<float>(shape, wide_TC, idx_R, narrow_TR, factor_TR, scale);
    case DType::kF16: return Write<Float16>(shape, wide_TC, idx_R, narrow_TR, factor_TR, scale);
    case DType::kBF16: return Write<BFloat16>(shape, wide_TC, idx_R, narrow_TR, factor_TR, scale);
  }
}

}  // namespace sbora::kernels::internal
