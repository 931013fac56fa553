/// A seeded two-block LLaMA with grouped heads, and helpers around it.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "core/r_index.h"
#include "worker/trainer/nn/llama.h"

namespace sbora::trainer::testing {

inline core::ModelConfig TinyConfig() {
  core::ModelConfig config;
  config.hidden_size = 32;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.intermediate_size = 48;
  config.vocab_size = 61;
  config.max_position_embeddings = 64;
  config.rms_norm_eps = 1e-5;
  config.tie_word_embeddings = true;
  return config;
}

/// Weights are ten times as large as Random's, so that attention and the logits are far from flat.
inline std::unique_ptr<LlamaModel> TinyModel(const core::ModelConfig& config = TinyConfig(), uint64_t seed = 7) {
  auto model = LlamaModel::Random(config, seed, {});
  SBORA_CHECK(model.ok(), "{}", model.status().ToString());
  for (auto& [name, tensor] : (*model)->NamedTensors()) {
    if (tensor.dim() == 2) tensor.mul_(10);
  }
  return std::move(model).value();
}

/// All seven modules of all layers, SBoRA's indices drawn.
inline std::vector<AdapterModuleSpec> AllModules(core::AdapterMethod method, int64_t rank,
                                                 const core::ModelConfig& config = TinyConfig()) {
  std::vector<AdapterModuleSpec> modules;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const core::LinearModule module : core::kAllLinearModules) {
      modules.push_back({.layer = layer, .module = module});
      if (!core::UsesIndices(method)) continue;
      const int64_t dim = core::IndexDim(method, core::LinearModuleShape(config, module));
      auto index = core::DrawIndices(3, core::ModulePath(layer, module), dim, rank);
      SBORA_CHECK(index.ok(), "{}", index.status().ToString());
      modules.back().index = *index;
    }
  }
  return modules;
}

/// Factors normal with a deviation of 0.1, so that every gradient is non-zero; magnitudes about 1, as long as the rows of
/// TinyModel.
inline void Randomize(const AdapterSet& adapter) {
  std::mt19937 rng(11);
  std::normal_distribution<float> normal(0, 0.1f);
  for (const AdapterModule& module : adapter.modules()) {
    for (const AdapterTensor& tensor : module.tensors) {
      at::Tensor random = at::empty_like(tensor.value);
      for (int64_t i = 0; i < random.numel(); ++i) random.mutable_data_ptr<float>()[i] = normal(rng);
      at::Tensor value = tensor.value;
      value.copy_(tensor.spec.role == core::TensorRole::kMagnitude ? random + 1 : random);
    }
  }
}

/// A randomized adapter on all modules.
inline std::unique_ptr<AdapterSet> TinyAdapter(core::AdapterMethod method, double dropout = 0,
                                               const core::ModelConfig& config = TinyConfig(),
                                               core::FrozenFactor frozen_a = core::FrozenFactor::kNone) {
  const AdapterOptions options{.method = method, .rank = 5, .alpha = 10, .dropout = dropout, .frozen_a = frozen_a,
                               .modules = AllModules(method, 5, config)};
  auto adapter = AdapterSet::Create(config, options, at::kCPU);
  SBORA_CHECK(adapter.ok(), "{}", adapter.status().ToString());
  Randomize(**adapter);
  return std::move(adapter).value();
}

inline std::vector<int64_t> RandomIds(int64_t length, uint32_t seed, int64_t vocab = 61) {
  std::mt19937 rng(seed);
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int64_t>(rng() % static_cast<uint32_t>(vocab)));
  return ids;
}

/// Of 9 and 14 tokens.
inline PackedBatch TwoSamples(uint32_t seed) {
  PackedBatch batch;
  batch.Append(seed, RandomIds(9, seed));
  batch.Append(seed + 100, RandomIds(14, seed + 1));
  return batch;
}

inline std::vector<int64_t> AllRows(const PackedBatch& batch) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < batch.tokens(); ++i) rows.push_back(i);
  return rows;
}

inline double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

}  // namespace sbora::trainer::testing
