/// The arguments of adamw.h: plain types, C++17, since nvcc reads them too.
#pragma once

#include <cstdint>

#include "kernels/adamw_step.h"
#include "kernels/types.h"

namespace sbora::kernels {

struct AdamWArguments {
  AdamWStep step;
  int64_t elements = 0;
  float* parameters = nullptr;       ///< changed in place
  const float* gradients = nullptr;  ///< not changed
  float* m = nullptr;                ///< changed in place
  float* v = nullptr;                ///< changed in place
  const float* gradient_factor = nullptr;  ///< one float, by which gradients are multiplied (clipping), or null for 1
  const float* skip = nullptr;             ///< one float; not 0: nothing is changed. Null for 0
};

}  // namespace sbora::kernels
