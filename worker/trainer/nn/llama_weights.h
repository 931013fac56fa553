/// LlamaModel's tensors; for llama.cc and llama_weights.cc only.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "worker/trainer/nn/llama.h"
#include "worker/trainer/ops/linear_weight.h"

namespace sbora::trainer {

struct LlamaModel::Weights {
  struct Layer {
    at::Tensor attention_norm_H;
    at::Tensor mlp_norm_H;
    std::array<ops::LinearWeight, std::size(core::kAllLinearModules)> linear;  // [O, I], by core::LinearModule
  };

  core::ModelConfig config;
  Options options;
  at::Tensor embedding_VH;
  at::Tensor head_VH;  // the embedding when tied
  at::Tensor norm_H;
  std::vector<Layer> layers;
  at::Tensor inverse_frequency_D2;  // f32 on the device
  std::shared_ptr<ops::DequantizeScratch> scratch;  // shared by all linear weights

  Weights(const core::ModelConfig& model, const Options& load_options);
  /// Puts a checkpoint tensor into its place, quantised if the options say so. REQUIRED: `name` is one of
  /// core::ExpectedTensors.
  Status Set(const std::string& name, at::Tensor tensor);
  /// That tensor; a copy where the weight is NF4.
  at::Tensor Get(const std::string& name) const;
  /// After the last Set.
  void Finish();

 private:
  /// Calls `found` with the at::Tensor or ops::LinearWeight that `name` stands for.
  template <typename Self, typename Found>
  static void Find(Self& weights, const std::string& name, const Found& found);
};

}  // namespace sbora::trainer
