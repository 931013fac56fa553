/// One forward pass through the decoder's layers; for llama.cc only.
///
/// Legend: T tokens, H hidden, I in_features.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/nn/llama_weights.h"
#include "worker/trainer/ops/dropout_mask.h"
#include "worker/trainer/ops/trained_layers.h"

namespace sbora::trainer {

/// What all layers of a pass share. What it points to outlives the pass and its graph.
struct LayerPass {
  /// Attention of packed rows, the one thing that differs between training and the two steps of generation.
  using Attend = std::function<at::Tensor(int64_t layer, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

  const core::ModelConfig* config = nullptr;
  const std::function<void()>* layer_done = nullptr;
  const LlamaWeights* weights = nullptr;
  const LlamaGradients* gradients = nullptr;  ///< null: the weights are frozen
  const AdapterSet* adapter = nullptr;
  bool train = false;      ///< with a graph
  bool input_gradient = false;  ///< with a graph although nothing trains
  bool recompute = false;  ///< ops::Recomputed for each layer; the graph then owns the pass
  ops::DropoutPlan dropout = {};
  at::Tensor cos_TD2 = {};
  at::Tensor sin_TD2 = {};
  Attend attend = nullptr;

  /// Of a weight whose gradient goes to `sum`.
  ops::WeightGradient GradientOf(const at::Tensor& sum) const { return {.sum = sum, .added = layer_done}; }
};

/// h_TH after all layers.
at::Tensor RunLayers(const std::shared_ptr<const LayerPass>& pass, at::Tensor h_TH);

}  // namespace sbora::trainer
