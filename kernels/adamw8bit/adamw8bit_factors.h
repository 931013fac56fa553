/// What all elements of a step share, and the border between adamw8bit.cc and nvcc: plain types, C++17.
#pragma once

#include <cstdint>

namespace sbora::kernels::internal {

/// Each is a float64 expression of AdamWStep, rounded once.
struct AdamWFactors {
  float beta1;
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float epsilon;
  float root_correction2;  ///< sqrt(1 - beta2^t)
  float keep;              ///< 1 - rate * decay
  float negative_rate;     ///< -rate / (1 - beta1^t)
};

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
