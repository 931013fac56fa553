/// A whole file mapped read-only into memory.
///
/// Thread safety: immutable after Open. Ownership: spans from bytes() are valid while the object lives; moving the
/// object keeps them valid. A file that is truncated by another process while mapped raises SIGBUS on access: map only
/// files of our own cache or files that are copied before use.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

#include "common/status.h"

namespace sbora::core {

class MappedFile {
 public:
  /// Errors: NOT_FOUND and others by errno, INVALID_ARGUMENT NOT_A_REGULAR_FILE. An empty file maps to an empty span.
  static StatusOr<MappedFile> Open(const std::filesystem::path& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }
  /// Tells the kernel that these pages are not needed again soon; they are read from disk on the next access.
  void Evict() const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace sbora::core
