/// What GGUF's short names of tokenizers stand for, for import (name -> rules) and export (rules -> name). Internal to
/// both.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "common/status.h"

namespace sbora::core {

// ggml's token types.
inline constexpr int32_t kGgufNormalToken = 1;
inline constexpr int32_t kGgufUnknownToken = 2;
inline constexpr int32_t kGgufControlToken = 3;      ///< special
inline constexpr int32_t kGgufUserDefinedToken = 4;  ///< added, not special
inline constexpr int32_t kGgufUnusedToken = 5;       ///< fills a row of the embedding that has no token
inline constexpr int32_t kGgufByteToken = 6;         ///< of sentencepiece: "<0x0A>"

/// The names of pre-tokenizers ("tokenizer.ggml.pre") whose rules are known here.
inline constexpr const char* kGgufPreTokenizers[] = {"smollm", "llama-bpe", "gpt-2", "default"};

/// tokenizer.json's `pre_tokenizer` behind a name. Errors: UNIMPLEMENTED TOKENIZER_UNSUPPORTED.
StatusOr<nlohmann::json> GgufPreTokenizer(const std::string& name);

/// What stands in the vocabulary for row `id` without a token: "[PAD300]".
std::string GgufUnusedToken(size_t id);

}  // namespace sbora::core
