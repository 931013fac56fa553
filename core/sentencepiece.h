/// sentencepiece tokenizers (LLaMA 1 and 2, TinyLlama, Mistral before tekken) as tokenizer.json, with the ids of
/// transformers' LlamaTokenizer (5.23). Internal to the imports.
///
/// What LlamaTokenizer makes of a sentencepiece model: BPE over the pieces with byte fallback, merges recovered from
/// the vocabulary, spaces as "▁", one "▁" in front of a text (Metaspace; not when it begins with a space or "▁"; with
/// `legacy` also behind each special token). Where that is not what the model's own rules say, the model is refused.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora::core {

/// What decides the order of merges. Both put every way to make a piece of two others one after the other.
enum class MergeOrder {
  kById,     ///< of a tokenizer.model: pieces by id, shorter left halves first
  kByScore,  ///< of a GGUF file: pieces by falling score, longer left halves first; equal scores by id within a length
};

struct SentencePieceVocabulary {
  std::vector<std::string> tokens;  ///< distinct, UTF-8; index is id
  std::vector<int32_t> types;       ///< ggml's, which are sentencepiece's (core/gguf_tokenizer.h)
  std::vector<float> scores;
};

struct SentencePieceRules {
  MergeOrder order = MergeOrder::kById;
  bool prefix_space = true;
  bool legacy = false;
  bool add_bos = true;
  std::string bos = "<s>";
  std::vector<std::string> special;  ///< named special tokens, in the vocabulary or among `added`
  nlohmann::json added =
      nlohmann::json::array();  ///< {"id", "content", "special"} of tokens behind the vocabulary, by id
};

/// Pairs of pieces, most preferred first. Halves must be tokens; lengths are in characters.
std::vector<std::pair<std::string, std::string>> SentencePieceMerges(const SentencePieceVocabulary& vocabulary,
                                                                     MergeOrder order);

/// Errors: UNIMPLEMENTED TOKENIZER_UNSUPPORTED for a vocabulary without all 256 byte tokens or without one of
/// <unk>, <s> and </s> (LlamaTokenizer would add it), or with a piece above 512 bytes; INVALID_ARGUMENT
/// TOKENIZER_MALFORMED for a score that is not finite or a special token that is not there.
StatusOr<nlohmann::json> SentencePieceTokenizer(const SentencePieceVocabulary& vocabulary,
                                                const SentencePieceRules& rules);

/// A sentencepiece `tokenizer.model` (ModelProto).
struct SentencePieceModel {
  SentencePieceVocabulary vocabulary;
  int64_t model_type = 1;  ///< 1 unigram, 2 BPE, 3 word, 4 char
  bool byte_fallback = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool whitespace_as_suffix = false;
  std::string normalization;  ///< name of the rules
  bool normalizes = false;    ///< the rules change characters
};
/// Errors: INVALID_ARGUMENT TOKENIZER_MALFORMED.
StatusOr<SentencePieceModel> ParseSentencePieceModel(std::string_view bytes);

/// tokenizer.json of a folder that holds a tokenizer.model instead.
/// Errors: as above; UNIMPLEMENTED TOKENIZER_UNSUPPORTED for other tokenizer classes, models that LlamaTokenizer does
/// not follow (unigram, normalisation, no byte fallback and so on), settings whose meaning changed between versions of
/// transformers and that are not said (add_bos_token), and added tokens with stripping.
StatusOr<std::string> TokenizerJsonOfSentencePiece(std::string_view model, std::string_view tokenizer_config_json);

}  // namespace sbora::core
