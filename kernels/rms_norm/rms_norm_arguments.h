/// The arguments of rms_norm.h: plain types, C++17, since nvcc reads them too.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace sbora::kernels {

struct RmsNormArguments {
  int64_t rows = 0;     ///< T
  int64_t columns = 0;  ///< H
  DType dtype = DType::kF32;
  float epsilon = 0;
  const void* x_TH = nullptr;
  const void* add_TH = nullptr;  ///< or null: x alone is normalised
  const void* w_H = nullptr;
  void* sum_TH = nullptr;      ///< out: x + add; null without add
  void* y_TH = nullptr;        ///< out
  float* inverse_T = nullptr;  ///< out: 1 / sqrt(mean(x^2) + epsilon) of each row
};

struct RmsNormBackwardArguments {
  int64_t rows = 0;     ///< T
  int64_t columns = 0;  ///< H
  DType dtype = DType::kF32;
  const void* x_TH = nullptr;  ///< what was normalised: x, or x + add
  const void* w_H = nullptr;
  const float* inverse_T = nullptr;
  const void* grad_TH = nullptr;
  const void* add_TH = nullptr;  ///< or null: added to the result, the gradient that reaches x another way
  void* dx_TH = nullptr;         ///< out
};

struct RmsNormWeightArguments {
  int64_t rows = 0;     ///< T
  int64_t columns = 0;  ///< H
  int64_t stride = 0;   ///< elements from row to row of x and grad; at least columns
  DType dtype = DType::kF32;
  const void* x_TH = nullptr;
  const float* inverse_T = nullptr;
  const void* grad_TH = nullptr;
  float* dw_H = nullptr;  ///< added to
};

}  // namespace sbora::kernels
