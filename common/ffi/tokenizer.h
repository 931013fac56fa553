/// A Hugging Face `tokenizer.json`, run by the library that defines the format: ids equal those of Python's `tokenizers`.
///
///     SBORA_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::FromJson(json));
///     SBORA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode("Hello", /*add_special_tokens=*/true));
///
/// Padding and truncation saved in the file are ignored: lengths are the caller's decision.
/// Text must be valid UTF-8 and may hold NUL bytes. Encode followed by Decode need not give the text back (a vocabulary
/// may lack byte tokens, a normalizer may change text).
/// Threading: all calls are const and may run at once. EncodeBatch uses a pool of one thread per core
/// (RAYON_NUM_THREADS), made at first use; a process that forks without exec must not have used it before.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

struct SboraFfiTokenizer;

namespace sbora {

class Tokenizer {
 public:
  /// Errors: INVALID_ARGUMENT TOKENIZER_INVALID with the library's text.
  static StatusOr<std::unique_ptr<Tokenizer>> FromJson(std::string_view tokenizer_json);
  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Errors: INVALID_ARGUMENT INVALID_UTF8 or TOKENIZER_ENCODE_FAILED.
  StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special_tokens) const;

  struct Encoding {
    std::vector<int32_t> ids;
    std::vector<int32_t> ends;  ///< byte offset in the text behind each token; 0 for a token that stands for no text
  };
  /// The ids of Encode, and where in the text each token ends. A token of several bytes of one character ends behind it.
  /// Errors: as Encode; INVALID_ARGUMENT TEXT_TOO_LONG from 2 GiB on.
  StatusOr<Encoding> EncodeWithEnds(std::string_view text, bool add_special_tokens) const;

  /// One vector per text, in order, on all cores. One bad text fails the batch and is named by its position.
  StatusOr<std::vector<std::vector<int32_t>>> EncodeBatch(std::span<const std::string> texts,
                                                          bool add_special_tokens) const;

  /// Errors: INVALID_ARGUMENT TOKEN_ID_INVALID for a negative id. Ids outside the vocabulary are skipped, as in Python.
  StatusOr<std::string> Decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  /// The id of exactly this token (added tokens included), or nothing.
  std::optional<int32_t> TokenToId(std::string_view token) const;
  std::optional<std::string> IdToToken(int32_t id) const;

  /// Number of entries, added tokens included. Ids need not be dense: the largest may be greater.
  int64_t vocab_size() const { return vocab_size_; }

 private:
  explicit Tokenizer(SboraFfiTokenizer* handle, int64_t vocab_size) : handle_(handle), vocab_size_(vocab_size) {}

  SboraFfiTokenizer* handle_;  // owned
  int64_t vocab_size_;
};

}  // namespace sbora
