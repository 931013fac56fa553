/// The arguments of swiglu.h: plain types, C++17, since nvcc reads them too.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace sbora::kernels {

/// Strides are elements from row to row, at least columns.
struct SwiGluArguments {
  int64_t rows = 0;     ///< T
  int64_t columns = 0;  ///< F
  DType dtype = DType::kF32;
  const void* gate_TF = nullptr;
  int64_t gate_stride = 0;
  const void* up_TF = nullptr;
  int64_t up_stride = 0;
  void* y_TF = nullptr;  ///< out
  int64_t y_stride = 0;
};

struct SwiGluBackwardArguments {
  int64_t rows = 0;     ///< T
  int64_t columns = 0;  ///< F
  DType dtype = DType::kF32;
  const void* gate_TF = nullptr;
  int64_t gate_stride = 0;
  const void* up_TF = nullptr;
  int64_t up_stride = 0;
  const void* grad_TF = nullptr;
  int64_t grad_stride = 0;
  void* dgate_TF = nullptr;  ///< out
  int64_t dgate_stride = 0;
  void* dup_TF = nullptr;  ///< out
  int64_t dup_stride = 0;
};

}  // namespace sbora::kernels
