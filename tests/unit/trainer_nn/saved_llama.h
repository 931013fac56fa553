/// Seeded models as folders, plain and in NF4, for the tests of NF4 models.
#pragma once

#include <filesystem>
#include <string>

#include "common/file.h"
#include "core/model_writer.h"
#include "tests/unit/trainer_nn/tiny_llama.h"
#include "worker/trainer/session/quantize_base.h"
#include "worker/trainer/session/quiet_observer.h"

namespace sbora::trainer::testing {

/// Hidden size 36: blocks run across rows, and the last one is short.
inline core::ModelConfig OddConfig() {
  core::ModelConfig config = TinyConfig();
  config.hidden_size = 36;
  config.intermediate_size = 46;
  return config;
}

/// The model as a plain folder, as its import would leave it.
inline void Save(const LlamaModel& model, const std::filesystem::path& dir) {
  std::filesystem::create_directories(dir);
  const auto tensors = model.NamedTensors();
  const auto files = core::WriteModelShards(
      dir, core::ExpectedTensors(model.config()),
      [&](const core::TensorSpec& spec, const core::ByteSink& sink) -> Status {
        for (const auto& [name, tensor] : tensors) {
          if (name != spec.name) continue;
          const at::Tensor flat = tensor.contiguous();
          return sink({static_cast<const std::byte*>(flat.const_data_ptr()), static_cast<size_t>(flat.nbytes())});
        }
        return NotFound("TENSOR_NOT_FOUND", spec.name);
      },
      {});
  SBORA_CHECK(files.ok(), "{}", files.status().ToString());
  SBORA_CHECK(WriteFileAtomic(dir / "config.json", core::ToHfConfigJson(model.config())).ok(), "config.json");
}

/// `base` in NF4, as `nf4`.
inline core::Nf4Config Quantize(const std::filesystem::path& base, const std::filesystem::path& nf4,
                                bool double_quantization) {
  QuietObserver observer;
  auto config = QuantizeBase({.model_dir = base, .output_dir = nf4, .double_quantization = double_quantization,
                              .base_hash = "", .threads = 2},
                             observer);
  SBORA_CHECK(config.ok(), "{}", config.status().ToString());
  return *std::move(config);
}

inline std::unique_ptr<LlamaModel> LoadNf4(const std::filesystem::path& dir) {
  auto model = LlamaModel::LoadNf4(dir, {});
  SBORA_CHECK(model.ok(), "{}", model.status().ToString());
  return *std::move(model);
}

/// OddConfig's model in float32 with the values of `source`.
inline std::unique_ptr<LlamaModel> Dense(const LlamaModel& source) {
  auto dense = TinyModel(OddConfig());
  const auto values = source.NamedTensors();
  for (auto& [name, tensor] : dense->NamedTensors()) {
    for (const auto& [other, value] : values) {
      if (name == other) tensor.copy_(value);
    }
  }
  return dense;
}

inline PackedBatch TwoSamples() {
  PackedBatch batch;
  batch.Append(3, RandomIds(12, 1));
  batch.Append(4, RandomIds(9, 2));
  return batch;
}

inline TempDirectory NewTempDirectory() {
  auto temp = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-nf4-test");
  SBORA_CHECK(temp.ok(), "{}", temp.status().ToString());
  return *std::move(temp);
}

}  // namespace sbora::trainer::testing
