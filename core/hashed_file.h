/// A file written front to back: hashed on the way, visible only when it is complete.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status.h"
#include "core/safetensors.h"

namespace sbora::core {

/// Bytes go to a temporary file beside `path`; Finish fsyncs it, renames it and fsyncs the folder. An unfinished file is
/// removed by the destructor. Not thread-safe, not movable; after an error only destruction is allowed.
class HashedFile {
 public:
  explicit HashedFile(std::filesystem::path path) : path_(std::move(path)) {}
  HashedFile(const HashedFile&) = delete;
  HashedFile& operator=(const HashedFile&) = delete;
  ~HashedFile();

  /// Errors: of the file system, by errno (NO_SPACE and others).
  Status Open();
  /// REQUIRED: Open returned OK.
  Status Write(std::string_view bytes);
  Status Write(std::span<const std::byte> bytes);
  StatusOr<WrittenFile> Finish();

  const std::filesystem::path& path() const { return path_; }
  int64_t written_bytes() const { return written_bytes_; }

 private:
  std::filesystem::path path_;
  std::string temporary_;
  UniqueFd fd_;
  Sha256 hash_;
  int64_t written_bytes_ = 0;
};

}  // namespace sbora::core
