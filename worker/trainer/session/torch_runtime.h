/// LibTorch's process-wide settings, and the border that its exceptions do not cross. Include only from .cc files that
/// see LibTorch.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <functional>
#include <utility>

#include "common/status.h"
#include "common/status_macros.h"
#include "core/compute_form.h"
#include "worker/trainer/checkpoint/checkpoint_store.h"
#include "worker/trainer/session/device.h"

namespace sbora::trainer {

struct TorchPlan {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
};

/// Threads, deterministic algorithms, the allocator. For good, for the whole process.
/// Errors: INVALID_ARGUMENT DEVICE_UNKNOWN; UNIMPLEMENTED DEVICE_UNAVAILABLE when this build or machine has no such
/// device; UNIMPLEMENTED COMPUTE_DTYPE for bfloat16 on a CPU; those of CheckDevice for a GPU.
StatusOr<TorchPlan> SetUpTorch(const DevicePlan& plan);

/// Ranks, threads of each, device, element type and form of what computes now.
ComputePlace CurrentPlace(int64_t ranks, at::Device device, at::ScalarType dtype, core::ComputeForm form);
/// Changes the number of CPU threads from here on. REQUIRED: at least 1.
void UseThreads(int64_t threads);

/// The exception in flight as a Status. REQUIRED: called in a catch block.
Status StatusFromCurrentException();

/// Runs `work` (which returns Status or StatusOr) and turns exceptions into its error.
template <typename Work>
auto Guarded(Work&& work) -> decltype(work()) {
  try {
    return std::forward<Work>(work)();
  } catch (...) {  // rethrown and told apart inside; unknown types end the process there
    return StatusFromCurrentException();
  }
}

}  // namespace sbora::trainer
