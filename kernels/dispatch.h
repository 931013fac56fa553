/// What the dispatchers share: explicit devices, and the parts of a check.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>

#include "common/check.h"
#include "common/status.h"
#include "kernels/cuda_status.h"
#include "kernels/types.h"

// The launcher in a build with CUDA, null in one without (which has no such function).
#ifdef SBORA_WITH_CUDA
#define SBORA_CUDA_LAUNCHER(launcher) (&internal::launcher)
#else
#define SBORA_CUDA_LAUNCHER(launcher) nullptr
#endif

namespace sbora::kernels::internal {

/// The widest unit of this processor that vectorize.h has code for.
inline VectorUnit BestVectorUnit() {
#if defined(__x86_64__)
  static const VectorUnit best =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl")
          ? VectorUnit::kAvx512
          : (__builtin_cpu_supports("avx2") ? VectorUnit::kAvx2 : VectorUnit::kBaseline);
  return best;
#else
  return VectorUnit::kBaseline;
#endif
}

/// The three backends of one operation. A launcher answers null, or CUDA's text.
template <typename Arguments>
struct Backends {
  const char* operation;
  void (*reference)(const Arguments&);
  void (*cpu)(const Arguments&, VectorUnit);
  const char* (*cuda)(const Arguments&, void* stream);
};

/// UNIMPLEMENTED CUDA_NOT_BUILT, INTERNAL CUDA_LAUNCH_FAILED.
template <typename Arguments>
Status RunBackend(const Backends<Arguments>& backends, Device device, const Arguments& arguments, Stream stream) {
  switch (device) {
    case Device::kCpuReference:
      backends.reference(arguments);
      return OkStatus();
    case Device::kCpu:
      backends.cpu(arguments, BestVectorUnit());
      return OkStatus();
    case Device::kCuda:
      if (backends.cuda == nullptr) return CudaNotBuilt(backends.operation);
      return CudaResult(backends.operation, backends.cuda(arguments, stream));
  }
  SBORA_CHECK(false, "device {} is no Device", static_cast<int>(device));
}

/// rows x stride elements of at most 8 bytes stay addressable.
inline bool ValidExtent(int64_t rows, int64_t stride) {
  constexpr int64_t kMaxElements = std::numeric_limits<int64_t>::max() / 8;
  return rows >= 0 && stride >= 0 && (rows == 0 || stride <= kMaxElements / rows);
}

struct NamedPointer {
  const char* name;
  const void* pointer;
  size_t element_bytes;
};

/// The name of the first that is null or not aligned to its elements; null if there is none.
inline const char* BadPointer(std::initializer_list<NamedPointer> pointers) {
  for (const NamedPointer& p : pointers) {
    if (p.pointer == nullptr || reinterpret_cast<uintptr_t>(p.pointer) % p.element_bytes != 0) return p.name;
  }
  return nullptr;
}

/// The element that lies `elements` behind `pointer`; null stays null.
template <typename Pointer>
Pointer Offset(Pointer pointer, int64_t elements, size_t element_bytes) {
  if (pointer == nullptr) return nullptr;
  return reinterpret_cast<Pointer>(reinterpret_cast<uintptr_t>(pointer) + static_cast<size_t>(elements) * element_bytes);
}

}  // namespace sbora::kernels::internal
