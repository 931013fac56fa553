/// SHA-256 (OpenSSL's), incremental. Digests travel as 64 lower-case hex characters.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>

#include "common/status.h"

namespace sbora {

/// Not thread-safe; one hash per object.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Update(std::string_view bytes);
  void Update(std::span<const std::byte> bytes);
  /// The digest; the object takes no more bytes afterwards.
  std::string FinishHex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string Sha256Hex(std::string_view bytes);

struct FileDigest {
  int64_t size_bytes = 0;
  std::string sha256;
};
/// Reads the whole file in 1 MiB pieces and calls `alive` before each. Errors: those of opening and reading; Cancelled
/// STOPPED.
StatusOr<FileDigest> DigestFile(const std::filesystem::path& path, const std::stop_token& stop = {},
                                const std::function<void()>& alive = {});

/// True for 64 lower-case hex characters.
bool IsSha256Hex(std::string_view text);

}  // namespace sbora
