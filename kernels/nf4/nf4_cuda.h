/// The border between nf4.cc and nvcc: plain types, C++17.
#pragma once

#include <cstdint>

namespace sbora::kernels::internal {

struct CudaNf4Matrix {
  int64_t rows;
  int64_t columns;
  int64_t stride;
  int64_t first_element;
};

/// `dtype` is the number of kernels::DType. Null on success, else CUDA's text (static storage). Asynchronous.
const char* LaunchQuantizeNf4(int64_t elements, int dtype, const void* weight, uint8_t* codes, float* scales,
                              void* stream);
const char* LaunchDequantizeNf4(const CudaNf4Matrix& matrix, int dtype, const uint8_t* codes, const float* scales,
                                void* out, void* stream);
const char* LaunchQuantizeScales(int64_t blocks, const float* scales, uint8_t* scale_codes, float* group_scales,
                                 float* offset, void* stream);
const char* LaunchDequantizeScales(int64_t blocks, const uint8_t* scale_codes, const float* group_scales,
                                   const float* offset, float* scales, void* stream);

}  // namespace sbora::kernels::internal
