/// Words that every kernel's interface uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace sbora::kernels {

enum class DType { kF32, kF16, kBF16 };
inline constexpr size_t SizeOf(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }
inline constexpr std::string_view NameOf(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16";
}

/// Where the pointers of a call live and the work runs. There is no fallback from one to another.
enum class Device {
  kCpuReference,  ///< slow, obvious, accumulates in double
  kCpu,
  kCuda,
};

/// Which code of kCpu runs (vectorize.h); all give the same bits.
enum class VectorUnit { kBaseline, kAvx2, kAvx512 };

/// A cudaStream_t without CUDA's headers; ignored by the CPU.
using Stream = void*;

}  // namespace sbora::kernels
