/// The text side of a base model: tokenizer, special tokens and chat template out of its folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/ffi/chat_template.h"
#include "common/ffi/tokenizer.h"
#include "common/status.h"

namespace sbora::data {

/// Thread-safe; move-only.
struct TextModel {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  ///< null when the model has none
  std::string bos_token;                        ///< empty when there is none
  std::string eos_token;
  std::vector<int32_t> eos_ids;  ///< first: the one appended to samples
  int64_t vocab_size = 0;        ///< of the embedding
  /// SHA-256 of tokenizer.json, special tokens and chat template: part of the token cache's key.
  std::string fingerprint;

  /// Reads config.json, tokenizer.json, tokenizer_config.json (optional) and chat_template.jinja (optional; wins over
  /// the one in tokenizer_config.json).
  /// Errors: those of the readers, INVALID_ARGUMENT EOS_TOKEN_MISSING, TOKENIZER_CONFIG_MALFORMED,
  /// TOKENIZER_VOCAB_MISMATCH when the tokenizer knows ids beyond the embedding.
  static StatusOr<TextModel> Open(const std::filesystem::path& model_dir);
};

}  // namespace sbora::data
