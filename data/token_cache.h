/// The token cache: all samples of a data set as ids and masks in one memory-mapped file. Built once by the agent, read
/// by every rank. This header needs neither tokenizer nor service.
///
/// File (little-endian): 256-byte header; ids int32 [tokens]; supervised uint8 [tokens], padded to 8; offsets int64
/// [samples + 1]; part ends int64 [parts]. The header holds magic, version, counts, key, the SHA-256 of all that
/// follows and of itself. Parts are the data sets of a mixture, in its order; other caches have one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/file.h"
#include "common/status.h"

namespace sbora::data {

inline constexpr uint32_t kTokenCacheVersion = 3;

/// Spans into the mapped file, valid while the TokenCache lives.
struct TokenSample {
  std::span<const int32_t> ids;
  std::span<const uint8_t> supervised;  ///< 1: this token is a target (of the position before it)
};

/// Thread-safe after Open; move-only.
class TokenCache {
 public:
  struct OpenOptions {
    bool verify = true;  ///< re-hash the whole file and check every offset; false checks header and size only
    std::string expected_key;  ///< empty: any
  };
  /// Errors: NOT_FOUND; INVALID_ARGUMENT TOKEN_CACHE_MALFORMED; DATA_LOSS TOKEN_CACHE_CORRUPT; FAILED_PRECONDITION
  /// TOKEN_CACHE_KEY, TOKEN_CACHE_VERSION.
  static StatusOr<TokenCache> Open(const std::filesystem::path& path, const OpenOptions& options);
  static StatusOr<TokenCache> Open(const std::filesystem::path& path) { return Open(path, OpenOptions{}); }

  int64_t size() const { return samples_; }
  int64_t tokens() const { return tokens_; }
  int64_t supervised_tokens() const { return supervised_tokens_; }
  /// Largest id plus one: must not exceed the model's vocabulary.
  int64_t vocab_bound() const { return vocab_bound_; }
  int64_t max_sample_tokens() const { return max_sample_tokens_; }
  /// Samples of each part, at least one part.
  std::vector<int64_t> part_sizes() const;
  const std::string& key() const { return key_; }
  /// REQUIRED: 0 <= i < size().
  TokenSample Sample(int64_t i) const;

 private:
  TokenCache() = default;
  Status Verify(const std::filesystem::path& path) const;

  MappedFile file_;
  int64_t samples_ = 0;
  int64_t tokens_ = 0;
  int64_t supervised_tokens_ = 0;
  int64_t vocab_bound_ = 0;
  int64_t max_sample_tokens_ = 0;
  int64_t parts_ = 0;
  std::string key_;
  const int32_t* ids_ = nullptr;
  const uint8_t* supervised_ = nullptr;
  const int64_t* offsets_ = nullptr;
  const int64_t* part_ends_ = nullptr;
};

/// Streams samples into a cache file; memory is 8 bytes a sample. Nothing appears under `path` before Finish, which
/// fsyncs and renames. Not thread-safe.
class TokenCacheWriter {
 public:
  /// `key`: 64 hex characters.
  static StatusOr<TokenCacheWriter> Create(const std::filesystem::path& path, std::string_view key);
  TokenCacheWriter(TokenCacheWriter&&) noexcept;
  TokenCacheWriter& operator=(TokenCacheWriter&&) noexcept;
  ~TokenCacheWriter();

  /// REQUIRED: as many masks as ids.
  /// Errors: INVALID_ARGUMENT SAMPLE_EMPTY, TOKEN_ID_NEGATIVE; file system errors.
  Status Add(std::span<const int32_t> ids, std::span<const uint8_t> supervised);
  int64_t size() const;
  /// Ends a part: what was added since the last one. Without any, the whole is one. REQUIRED: after the last EndPart
  /// comes no Add.
  void EndPart();
  Status Finish();

 private:
  struct Impl;
  explicit TokenCacheWriter(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sbora::data
