/// A linear layer with whatever adapter it has: the one place that picks by method.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/ops/dropout_mask.h"
#include "worker/trainer/ops/linear_weight.h"

namespace sbora::trainer::ops {

/// SboraLinear, LoraLinear or DoraLinear (their headers say what each computes and keeps). Adapter set and module must
/// outlive the graph. `train` false: no factor gradient, plain tensor arithmetic.
at::Tensor AdapterLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, const AdapterSet& adapter,
                         const AdapterModule& module, const DropoutPlan& dropout, bool train);

}  // namespace sbora::trainer::ops
