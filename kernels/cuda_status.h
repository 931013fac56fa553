/// What a dispatcher answers for the CUDA backend.
#pragma once

#include <fmt/format.h>

#include "common/status.h"

namespace sbora::kernels::internal {

/// `error` is what a launcher returned: null on success, else CUDA's text. INTERNAL CUDA_LAUNCH_FAILED.
inline Status CudaResult(const char* operation, const char* error) {
  if (error == nullptr) return OkStatus();
  return Internal("CUDA_LAUNCH_FAILED", fmt::format("{}: {}", operation, error));
}

/// UNIMPLEMENTED CUDA_NOT_BUILT.
inline Status CudaNotBuilt(const char* operation) {
  return Unimplemented("CUDA_NOT_BUILT",
                       fmt::format("{} on CUDA: this build has no CUDA kernels; configure with -DSBORA_WITH_CUDA=ON",
                                   operation));
}

}  // namespace sbora::kernels::internal
