/// y = W0 x with a LoRA adapter (arXiv 2106.09685), as an autograd function that keeps the least.
///
/// Legend: T tokens, I in_features, O out_features, R rank, s AdapterModule::scale.
///     y = x W0^T + s drop(x) A^T B^T
///     dB = s g^T z,  dA = s (g B)^T drop(x),  dx = g W0 + s mask * (g B A),  with z = drop(x) A^T
/// Kept for backward: z (T x R) and, where A is trained, x (T x I), shared with its other readers. With a frozen A
/// (core::FrozenFactor) nothing of x is kept: LoRA-FA's saving. Masks are drawn again.
/// x_TI, w_OI and y share one dtype; A and B are float32. W0, A and B are kept by reference. Gradients are ADDED to
/// AdapterTensor::gradient during the backward pass, then announced by AdapterSet::NotifyGradientReady; autograd sees
/// the input gradient only. Errors: c10::Error for shapes.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/ops/dropout_mask.h"
#include "worker/trainer/ops/linear_weight.h"

namespace sbora::trainer::ops {

/// As AdapterLinear. REQUIRED: the method is kLora.
at::Tensor LoraLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, const AdapterSet& adapter,
                      const AdapterModule& module, const DropoutPlan& dropout, bool train);

}  // namespace sbora::trainer::ops
