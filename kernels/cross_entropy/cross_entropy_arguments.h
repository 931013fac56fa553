/// The arguments of cross_entropy.h: plain types, C++17, since nvcc reads them too.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace sbora::kernels {

struct CrossEntropyArguments {
  int64_t rows = 0;     ///< S
  int64_t columns = 0;  ///< V
  int64_t stride = 0;   ///< elements from row to row of the logits, at least V
  DType dtype = DType::kF32;
  bool gradient = false;       ///< whether the gradient takes the logits' place
  void* logits_SV = nullptr;   ///< in; out with `gradient`
  const int64_t* target_S = nullptr;
  float* loss_S = nullptr;  ///< out
};

}  // namespace sbora::kernels
