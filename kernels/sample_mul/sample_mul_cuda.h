/// The border between sample_mul.cc and nvcc: plain types, C++17.
#pragma once

#include <cstdint>

namespace sbora::kernels::internal {

struct CudaShape {
  int64_t rows;
  int64_t wide_stride;
  int64_t indices;
  int64_t narrow_stride;
};

/// `dtype` is the number of kernels::DType. Null on success, else CUDA's text (static storage). Asynchronous.
const char* LaunchGatherColumns(const CudaShape& shape, int dtype, const void* wide, const int32_t* idx, void* narrow,
                                void* stream);
const char* LaunchScatterAddColumns(const CudaShape& shape, int dtype, void* wide, const int32_t* idx,
                                    const void* narrow, float scale, void* stream);
const char* LaunchWriteColumns(const CudaShape& shape, int dtype, void* wide, const int32_t* idx, const void* narrow,
                               const float* factor, float scale, void* stream);

}  // namespace sbora::kernels::internal
