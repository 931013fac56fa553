/// A sentencepiece-style tokenizer.json (BPE with byte fallback) for GGUF's tokenizer model "llama". Internal to the
/// export.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/status.h"

namespace sbora::core {

/// Whether `tokenizer` is meant to be exported so.
bool IsSentencePieceJson(const nlohmann::json& tokenizer);

struct GgufPieces {
  /// By id; their order is that of the merges, their values sentencepiece's where it can be.
  std::vector<float> scores;
  bool add_space_prefix = false;
};

/// Checks what GGUF has no keys for, recovers the scores, and marks byte tokens and `unknown` in `types`.
/// `tokens` and `types` are by id, filled up to the embedding's rows.
///
/// llama.cpp takes at each step the pair whose token has the highest score. That is the list of merges only if it holds
/// every split of every token into two tokens, the splits of one token in a row; and if every character of a token is a
/// token. Others are refused. Left is what no order of merges says: where one token can be made of two overlapping
/// pairs, llama.cpp takes the leftmost, `tokenizers` the one that comes first in the list.
/// Errors: UNIMPLEMENTED TOKENIZER_UNSUPPORTED naming the part, INVALID_ARGUMENT TOKENIZER_MALFORMED.
StatusOr<GgufPieces> ReadGgufPieces(const nlohmann::json& tokenizer, const std::string& unknown,
                                    const std::vector<std::string>& tokens, std::vector<int32_t>& types);

}  // namespace sbora::core
