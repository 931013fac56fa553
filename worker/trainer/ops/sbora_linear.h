/// y = W0 x with or without an SBoRA adapter, as autograd functions that keep the least.
///
/// Legend: T tokens, I in_features, O out_features, R rank. x_TI, w_OI and y share one dtype; factors are float32.
/// An NF4 weight is de-quantised anew in each forward and backward pass.
/// | function     | forward                      | kept for backward                         |
/// | FrozenLinear | y = x W0^T                   | nothing of x                              |
/// | FaLinear     | y = x W0^T + s x[:, idx] B^T | the R gathered, masked columns (T x R)    |
/// | FbLinear     | y = x W0^T, y[:, idx] += s drop(x) A^T | x (T x I), shared with its other readers |
/// A weight that this module's adapter is merged into (LinearWeight::BeginMerged) is W0 + s F itself: FaLinear and FbLinear
/// are then one product forward and one for dx, and keep the same.
/// W0, the factor and the index are kept by reference. Factor gradients are ADDED to AdapterTensor::gradient during
/// the backward pass and then announced by AdapterSet::NotifyGradientReady; autograd sees the input gradient only.
/// Errors: c10::Error for shapes; kernel errors abort (shapes were checked when the adapter was made).
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/ops/dropout_mask.h"
#include "worker/trainer/ops/linear_weight.h"

namespace sbora::trainer::ops {

/// `begin`: the output is part of a graph even when x requires no gradient, which is then not computed.
at::Tensor FrozenLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, bool begin = false);

/// Adapter set and module must outlive the graph. `train` false: no factor gradient, plain tensor arithmetic.
at::Tensor SboraLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, const AdapterSet& adapter,
                       const AdapterModule& module, const DropoutPlan& dropout, bool train);

}  // namespace sbora::trainer::ops
