/// An element of any of the kernels' types, as tests read and write it.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/elements.h"
#include "kernels/types.h"

namespace sbora::kernels::testing {

inline double ReadElement(const unsigned char* at, DType dtype) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, at, sizeof value);
    return double{value};
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return double{dtype == DType::kF16 ? internal::Widen(internal::Float16{bits}) : internal::Widen(internal::BFloat16{bits})};
}

/// Rounded to the type.
inline void WriteElement(unsigned char* at, DType dtype, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(at, &value, sizeof value);
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? internal::Narrow<internal::Float16>(value).bits
                                             : internal::Narrow<internal::BFloat16>(value).bits;
  std::memcpy(at, &bits, sizeof bits);
}

}  // namespace sbora::kernels::testing
