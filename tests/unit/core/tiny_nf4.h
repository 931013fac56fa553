/// The tiny model in NF4 with the real kernels, and adapters that were trained on it, for the tests of NF4 merges.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/nf4_merge.h"
#include "tests/unit/core/tiny_adapter.h"
#include "worker/trainer/ops/nf4_codec.h"
#include "worker/trainer/ops/quantize_weight.h"

namespace sbora::core::testing {

/// Widths of no multiple of 64: blocks run on across rows, rows begin inside a byte, the last block is short.
inline ModelConfig OddNf4Config(DType dtype = DType::kF32) {
  ModelConfig config = TinyConfig(dtype);
  config.hidden_size = 36;
  config.num_heads = 4;
  config.head_dim = 10;
  config.intermediate_size = 75;
  return config;
}

inline void WriteTinyNf4(const std::filesystem::path& base_dir, const std::filesystem::path& nf4_dir,
                         bool double_quantization, int64_t max_shard_bytes = 1 << 30) {
  const auto base = ModelFolder::Open(base_dir);
  SBORA_CHECK(base.ok(), "{}", base.status().ToString());
  const auto written = WriteNf4Model(
      *base, nf4_dir,
      [&](const TensorView& weight) { return trainer::QuantizeWeight(weight, double_quantization, 1); },
      {.double_quantization = double_quantization, .max_shard_bytes = max_shard_bytes});
  SBORA_CHECK(written.ok(), "{}", written.status().ToString());
}

/// As WriteTinyAdapter, trained on that base in NF4; `base_hash` of a merged model in place of the plain base's.
inline RegionHolder WriteTinyNf4Adapter(const std::filesystem::path& dir, const std::filesystem::path& base_dir,
                                        const std::string& name, const TinyAdapterOptions& options,
                                        bool double_quantization, const std::string& base_hash = "") {
  RegionHolder holder = WriteTinyAdapter(dir, base_dir, name, options);
  const auto text = ReadFile(dir / kAdapterConfigFile, 1 << 20);
  auto config = ParseAdapterConfig(*text);
  SBORA_CHECK(config.ok(), "{}", config.status().ToString());
  config->base_quantization = {.kind = Quantization::kNf4, .double_quantization = double_quantization};
  if (!base_hash.empty()) config->base_hash = base_hash;
  SBORA_CHECK(WriteFileAtomic(dir / kAdapterConfigFile, ToJson(*config)).ok(), "config of {}", name);
  return holder;
}

struct NamedWeight {
  std::string module;
  ModuleShape shape;
  int64_t layer = 0;
  LinearModule linear = LinearModule::kQ;
};

inline std::vector<NamedWeight> AllWeights(const ModelConfig& config) {
  std::vector<NamedWeight> weights;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const LinearModule module : kAllLinearModules) {
      weights.push_back({ModulePath(layer, module), LinearModuleShape(config, module), layer, module});
    }
  }
  return weights;
}

}  // namespace sbora::core::testing
