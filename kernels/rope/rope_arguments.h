/// The arguments of rope.h: plain types, C++17, since nvcc reads them too.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace sbora::kernels {

struct RopeArguments {
  int64_t rows = 0;      ///< T
  int64_t heads = 0;     ///< N
  int64_t head_dim = 0;  ///< D, even
  DType dtype = DType::kF32;
  bool inverse = false;  ///< turns back: the backward pass
  const void* x_TD = nullptr;
  int64_t x_stride = 0;  ///< elements from row to row, at least N * D
  const float* cos_TD2 = nullptr;
  const float* sin_TD2 = nullptr;
  void* y_TD = nullptr;  ///< out, N * D elements from row to row
};

}  // namespace sbora::kernels
