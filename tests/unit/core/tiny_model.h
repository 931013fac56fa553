/// A LLaMA of a few kilobytes with seeded weights, in HF layout on disk, for the tests of core.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "common/file.h"
#include "core/counter_rng.h"
#include "core/model_config.h"
#include "core/model_writer.h"

namespace sbora::core::testing {

inline ModelConfig TinyConfig(DType dtype = DType::kF32) {
  ModelConfig config;
  config.hidden_size = 16;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.intermediate_size = 24;
  config.vocab_size = 32;
  config.max_position_embeddings = 64;
  config.tie_word_embeddings = true;
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
  config.dtype = dtype;
  return config;
}

inline std::vector<float> SeededFloats(const std::string& name, int64_t count) {
  PhiloxStream stream(DeriveKey("test", 7, name));
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = stream.NextNormal();
  return values;
}

inline int64_t Elements(const TensorSpec& spec) {
  int64_t count = 1;
  for (const int64_t extent : spec.shape) count *= extent;
  return count;
}

inline std::vector<std::byte> SeededBytes(const TensorSpec& spec) {
  const auto values = SeededFloats(spec.name, Elements(spec));
  std::vector<std::byte> bytes(values.size() * static_cast<size_t>(DTypeSize(spec.dtype)));
  SBORA_CHECK(FromFloat(values, spec.dtype, bytes).ok(), "weights of {}", spec.name);
  return bytes;
}

inline void WriteTinyModel(const std::filesystem::path& dir, const ModelConfig& config, int64_t max_shard_bytes = 1 << 30) {
  std::filesystem::create_directories(dir);
  const auto files = WriteModelShards(
      dir, ExpectedTensors(config),
      [](const TensorSpec& spec, const ByteSink& sink) { return sink(SeededBytes(spec)); },
      {.max_shard_bytes = max_shard_bytes, .progress = {}, .cancelled = {}});
  SBORA_CHECK(files.ok(), "{}", files.status().ToString());
  SBORA_CHECK(WriteFileAtomic(dir / "config.json", ToHfConfigJson(config)).ok(), "config");
  SBORA_CHECK(WriteFileAtomic(dir / "tokenizer.json", R"({"model":{"type":"BPE"}})").ok(), "tokenizer");
}

inline TempDirectory NewTempDirectory() {
  auto dir = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-core-test");
  SBORA_CHECK(dir.ok(), "{}", dir.status().ToString());
  return std::move(dir).value();
}

}  // namespace sbora::core::testing
