/// The border between adamw8bit.cc and nvcc: plain types, C++17.
#pragma once

#include <cstdint>

#include "kernels/adamw_step.h"

namespace sbora::kernels::internal {

struct CudaMoment8Bit {
  uint8_t* codes;
  float* scales;
};

/// Null on success, else CUDA's text (static storage). Asynchronous. `second`: of the second moment.
const char* LaunchUpdateAdamW8Bit(const AdamWFactors& factors, int64_t elements, float* parameters, const float* gradients,
                                  CudaMoment8Bit m, CudaMoment8Bit v, const float* skip, void* stream);
const char* LaunchUpdateAdamW32Bit(const AdamWFactors& factors, int64_t elements, float* parameters, const float* gradients,
                                   float* m, float* v, const float* skip, void* stream);
const char* LaunchDequantizeMoment(bool second, int64_t elements, const uint8_t* codes, const float* scales, float* values,
                                   void* stream);

}  // namespace sbora::kernels::internal
