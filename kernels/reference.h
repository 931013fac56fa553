/// Elements as doubles, for the *_reference.cc files.
#pragma once

#include <cstdint>

#include "kernels/elements.h"
#include "kernels/types.h"

namespace sbora::kernels::internal {

template <typename T>
double At(const void* values, int64_t i) {
  return double{Widen(static_cast<const T*>(values)[i])};
}

template <typename T>
void Put(void* values, int64_t i, double value) {
  static_cast<T*>(values)[i] = Narrow<T>(static_cast<float>(value));
}

/// Kernel::Run<T>(arguments) for the element type.
template <typename Kernel, typename Arguments>
void ForElements(DType dtype, const Arguments& arguments) {
  switch (dtype) {
    case DType::kF32: return Kernel::template Run<float>(arguments);
    case DType::kF16: return Kernel::template Run<Float16>(arguments);
    case DType::kBF16: return Kernel::template Run<BFloat16>(arguments);
  }
}

}  // namespace sbora::kernels::internal
