/// Proof that a device computes what the CPU computes, before a task relies on it: a small model with grouped heads goes
/// forward and backward on both, with SBoRA-FA and -FB, LoRA and DoRA, on a float base and on NF4, with dropout; and each
/// optimiser makes a few steps. A wrong kernel, driver or library build is told here and not by a bad adapter hours later.
/// About a second on a GPU.
/// Include only from .cc files that see LibTorch.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include "common/status.h"

namespace sbora::trainer {

struct DeviceAndDtype {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;
};

/// Largest relative differences over all cases.
struct DeviceDifference {
  double loss = 0;      ///< |a - b| / |a|
  double gradient = 0;  ///< ||a - b|| / ||a|| of one module's gradient; infinite when one is not finite
  double update = 0;    ///< the same of what an optimiser changed, float32 whatever the type
};

/// What float32 and bfloat16 may differ by from a computation in the same type elsewhere (docs/numerics.md).
DeviceDifference DeviceTolerance(at::ScalarType dtype);

DeviceDifference CompareDevices(const DeviceAndDtype& reference, const DeviceAndDtype& place);

/// CompareDevices within the tolerance of `place`'s type. Errors: INTERNAL DEVICE_CHECK_FAILED with figures and
/// tolerance.
Status CheckDevice(const DeviceAndDtype& reference, const DeviceAndDtype& place);
/// Against the CPU in the same type.
Status CheckDevice(const DeviceAndDtype& place);

}  // namespace sbora::trainer
