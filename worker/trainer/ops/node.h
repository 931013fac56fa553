/// A small base for hand-written backward passes. Unlike torch::autograd::Function it needs no boxed values, and it is
/// recorded even when no input requires a gradient (the factors of the first block are no autograd leaves).
/// Include only from .cc files.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>
#include <utility>

namespace sbora::trainer::ops {

/// Puts `node` behind `output`, with edges to `inputs`. Nodes must hold detached tensors only: an output saved with its
/// own history would be a reference cycle.
template <typename NodeType, typename... Inputs>
void Record(at::Tensor& output, std::shared_ptr<NodeType> node, const Inputs&... inputs) {
  node->set_next_edges(torch::autograd::collect_next_edges(inputs...));
  torch::autograd::create_gradient_edge(output, std::move(node));
}

template <typename... Inputs>
bool NeedsGraph(const Inputs&... inputs) {
  return at::GradMode::is_enabled() && (inputs.requires_grad() || ...);
}

}  // namespace sbora::trainer::ops
