/// A tensor as the functions of kernels/ want it: where it lives, the stream to run on, its element type.
/// Include only from .cc files.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>

#include "common/status.h"
#include "kernels/types.h"

namespace sbora::trainer::ops {

struct KernelPlace {
  kernels::Device device = kernels::Device::kCpu;
  kernels::Stream stream = nullptr;  ///< LibTorch's current stream of the tensor's device
};

/// While it lives, PlaceOf sends the calling thread's CPU tensors to the kernels' references: what a step with the fast
/// kernels is compared with.
class ReferenceKernels {
 public:
  ReferenceKernels();
  ~ReferenceKernels();
  ReferenceKernels(const ReferenceKernels&) = delete;
  ReferenceKernels& operator=(const ReferenceKernels&) = delete;
};

/// Aborts for a device that this build has no kernels for: SetUpTorch lets none get here.
KernelPlace PlaceOf(const at::Tensor& tensor);

/// float32, float16 or bfloat16; aborts for others.
kernels::DType KernelDType(at::ScalarType type);

/// Enough work that waking a thread for it pays.
inline constexpr int64_t kElementsPerTask = 1 << 14;

/// Runs `kernel` over [0, count) of what its Part function counts, each of `elements`: split among LibTorch's threads on the
/// CPU (which changes no bit), in one launch on a device. Throws c10::Error for a Status that is not OK.
template <typename Arguments>
void RunKernel(const KernelPlace& place, Status (*kernel)(kernels::Device, const Arguments&, kernels::Stream),
               const Arguments& arguments, int64_t count, int64_t elements) {
  const auto run = [&](const Arguments& part) {
    const Status status = kernel(place.device, part, place.stream);
    TORCH_CHECK(status.ok(), status.ToString());
  };
  if (place.device != kernels::Device::kCpu) return run(arguments);
  at::parallel_for(0, count, std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, elements)),
                   [&](int64_t begin, int64_t end) { run(Part(arguments, begin, end)); });
}

}  // namespace sbora::trainer::ops
