/// What the adapted linear layers share: their backward nodes' common state and the products both passes need.
/// Include only from .cc files.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>

#include <memory>

#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/ops/dropout_mask.h"
#include "worker/trainer/ops/linear_weight.h"

namespace sbora::trainer::ops {

/// Adapter set and module must outlive the node. Nodes hold detached tensors (node.h).
struct AdapterBackward : torch::autograd::Node {
  LinearWeight w_OI;
  const AdapterSet* adapter = nullptr;
  const AdapterModule* module = nullptr;
  DropoutPlan dropout;
};

template <typename NodeType>
std::shared_ptr<NodeType> MakeAdapterNode(const LinearWeight& w_OI, const AdapterSet& adapter,
                                          const AdapterModule& module, const DropoutPlan& dropout) {
  auto node = std::make_shared<NodeType>();
  node->w_OI = w_OI;
  node->adapter = &adapter;
  node->module = &module;
  node->dropout = dropout;
  return node;
}

/// The module's mask over all features, like x_TI; undefined without dropout.
inline at::Tensor MaskOf(const at::Tensor& x_TI, const AdapterModule& module, const DropoutPlan& dropout) {
  if (dropout.rows == nullptr) return {};
  return FullMask(x_TI, *dropout.rows, module.dropout_id, dropout.probability);
}

inline at::Tensor Masked(const at::Tensor& x_TI, const at::Tensor& mask_TI) {
  return mask_TI.defined() ? x_TI * mask_TI : x_TI;
}

/// gradient += scale * left^T right, in float32 whatever the compute dtype.
/// `gradient` is contiguous. kernels/factor_gradient does it where it can.
void Accumulate(const at::Tensor& gradient, const at::Tensor& left, const at::Tensor& right, double scale);

/// dx += scale * mask * (g a): the gradient that reaches the input through the adapter's A.
inline void AddInputGradient(at::Tensor& dx_TI, const at::Tensor& g_TR, const at::Tensor& a_RI,
                             const at::Tensor& mask_TI, double scale) {
  if (mask_TI.defined()) {
    dx_TI.addcmul_(at::mm(g_TR, a_RI), mask_TI, scale);
  } else {
    dx_TI.addmm_(g_TR, a_RI, 1, scale);
  }
}

}  // namespace sbora::trainer::ops
