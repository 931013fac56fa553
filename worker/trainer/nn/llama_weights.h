/// LlamaModel's tensors; for the .cc files of LlamaModel and layer_pass.h only.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "worker/trainer/nn/full_weights.h"
#include "worker/trainer/nn/llama.h"
#include "worker/trainer/ops/linear_weight.h"

namespace sbora::trainer {

/// One tensor for each of a LLaMA's weights: the weights themselves, or their gradients.
template <typename Linear>
struct LlamaTensors {
  struct Layer {
    at::Tensor attention_norm_H;
    at::Tensor mlp_norm_H;
    std::array<Linear, std::size(core::kAllLinearModules)> linear;  // [O, I], by core::LinearModule
  };

  at::Tensor embedding_VH;
  at::Tensor head_VH;  // the embedding when tied
  at::Tensor norm_H;
  std::vector<Layer> layers;
};
using LlamaWeights = LlamaTensors<ops::LinearWeight>;
using LlamaGradients = LlamaTensors<at::Tensor>;

struct LlamaModel::Weights : LlamaWeights {
  core::ModelConfig config;
  Options options;
  at::Tensor inverse_frequency_D2;  // f32 on the device
  std::shared_ptr<ops::DequantizeScratch> scratch;  // shared by all linear weights
  std::optional<LlamaGradients> gradients;          // when all weights are trained

  Weights(const core::ModelConfig& model, const Options& load_options);
  /// Puts a checkpoint tensor into its place, quantised if the options say so. REQUIRED: `name` is one of
  /// core::ExpectedTensors.
  Status Set(const std::string& name, at::Tensor tensor);
  /// That tensor; a copy where the weight is NF4.
  at::Tensor Get(const std::string& name) const;
  /// After the last Set.
  void Finish();
  /// Moves the weights into `full`, one after the other, and makes views of its gradients.
  void MoveInto(const FullWeights& full);
};

}  // namespace sbora::trainer
