/// Seeded models as folders, plain and in NF4, for the tests of NF4 models.
#pragma once

#include <filesystem>
#include <string>

#include "common/file.h"
#include "core/model_writer.h"
#include "tests/unit/trainer_nn/tiny_llama.h"

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

inline TempDirectory NewTempDirectory() {
  auto temp = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-nf4-test");
  SBORA_CHECK(temp.ok(), "{}", temp.status().ToString());
  return *std::move(temp);
}

}  // namespace sbora::trainer::testing
