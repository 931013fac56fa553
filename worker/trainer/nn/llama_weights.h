/// LlamaModel's tensors; for llama.cc and llama_weights.cc only.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

#include "worker/trainer/nn/llama.h"

namespace sbora::trainer {

struct LlamaModel::Weights {
  struct Layer {
    at::Tensor attention_norm_H;
    at::Tensor mlp_norm_H;
    std::array<at::Tensor, std::size(core::kAllLinearModules)> linear;  // [O, I], by core::LinearModule
  };

  core::ModelConfig config;
  Options options;
  at::Tensor embedding_VH;
  at::Tensor head_VH;  // the embedding when tied
  at::Tensor norm_H;
  std::vector<Layer> layers;
  at::Tensor inverse_frequency_D2;  // f32 on the device

  /// The place of a checkpoint tensor. REQUIRED: `name` is one of core::ExpectedTensors.
  at::Tensor& Slot(const std::string& name);
  void Finish();
};

}  // namespace sbora::trainer
