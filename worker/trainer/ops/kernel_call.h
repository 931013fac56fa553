/// A tensor as the functions of kernels/ want it: where it lives, the stream to run on, its element type.
/// Include only from .cc files.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/types.h"

namespace sbora::trainer::ops {

struct KernelPlace {
  kernels::Device device = kernels::Device::kCpu;
  kernels::Stream stream = nullptr;  ///< LibTorch's current stream of the tensor's device
};

/// Aborts for a device that this build has no kernels for: SetUpTorch lets none get here.
KernelPlace PlaceOf(const at::Tensor& tensor);

/// float32, float16 or bfloat16; aborts for others.
kernels::DType KernelDType(at::ScalarType type);

}  // namespace sbora::trainer::ops
