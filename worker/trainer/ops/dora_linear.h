/// y = W0 x with a DoRA adapter (arXiv 2402.09353, eq. 5; the norm detached as its section 4.3 has it), as PEFT computes
/// it.
/// Legend: T tokens, I in_features, O out_features, R rank, s AdapterModule::scale, n = |W0 + s B A| row by row (constant
/// to the gradient), c = m / n, z = drop(x) A^T, u = drop(x) W0^T + s z B^T.
///     y = x W0^T + (c - 1) * (drop(x) W0^T) + c * (s z B^T): the dropout also acts on W0's share of the update
///     dm = sum_t(g * u) / n,  dB = s (g c)^T z,  dA = s (g c B)^T drop(x)
///     dx = g W0 + mask * ((g c - g) W0 + s g c B A)
/// Without dropout y = c * u: one product with W0 forward and one backward. With dropout it takes two of each.
/// n comes from AdapterSet::RowNorms, which never forms W0 + s B A.
/// Kept for backward: x (T x I), shared with its other readers, z (T x R) and u (T x O). Masks are drawn again.
/// Types, ownership of gradients and errors: as lora_linear.h.
#pragma once

#include <ATen/core/Tensor.h>

#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/ops/dropout_mask.h"
#include "worker/trainer/ops/linear_weight.h"

namespace sbora::trainer::ops {

/// As AdapterLinear. REQUIRED: the method is kDora.
at::Tensor DoraLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, const AdapterSet& adapter,
                      const AdapterModule& module, const DropoutPlan& dropout, bool train);

}  // namespace sbora::trainer::ops
