/// A tiny random LLaMA in a folder, as a model import leaves it: config.json, model.safetensors, a byte-level
/// tokenizer.json without merges (one token per byte), tokenizer_config.json with a ChatML template. About 60 KB.
#pragma once

#include <cstdint>
#include <filesystem>

#include "common/status.h"
#include "core/model_config.h"

namespace sbora::testing {

struct TinyModelOptions {
  int64_t hidden_size = 32;
  int64_t num_layers = 2;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 2;
  int64_t intermediate_size = 64;
  int64_t max_position_embeddings = 256;
  bool tie_word_embeddings = true;
  uint64_t seed = 1;  ///< the same seed gives the same bytes
};

/// Its configuration.
core::ModelConfig TinyModelConfig(const TinyModelOptions& options = {});

/// Creates `dir`.
Status WriteTinyModel(const std::filesystem::path& dir, const TinyModelOptions& options = {});

/// Writes `samples` prompt/completion records as JSONL ("add 3 4" -> "7").
Status WriteTinyDataset(const std::filesystem::path& file, int samples);

}  // namespace sbora::testing
