/// Files that survive a crash: whole-file reads with a limit, atomic durable writes, memory maps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "common/status.h"

namespace sbora {

/// Owns one file descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() { Reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.Release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept;
  bool valid() const { return fd_ >= 0; }
  int get() const { return fd_; }
  int Release();
  void Reset();

 private:
  int fd_ = -1;
};

/// The whole file. Errors: OutOfRange FILE_TOO_LARGE when it is larger than `max_bytes`; InvalidArgument NOT_A_FILE for
/// a folder; what opening and reading give.
StatusOr<std::string> ReadFile(const std::filesystem::path& path, int64_t max_bytes);

/// Writes beside `path`, fsyncs, renames over it, fsyncs the folder: after a crash the file is the old or the new one.
/// ENOSPC is ResourceExhausted NO_SPACE and leaves the old file.
Status WriteFileAtomic(const std::filesystem::path& path, std::string_view bytes);

/// write(2) until all is written.
Status WriteAll(int fd, std::string_view bytes, std::string_view what);

/// fsync of a folder, so that a rename inside it is durable.
Status SyncDirectory(const std::filesystem::path& directory);

/// A private folder under `parent` (made when missing), removed with all it holds when the object goes.
class TempDirectory {
 public:
  static StatusOr<TempDirectory> Create(const std::filesystem::path& parent, std::string_view prefix);
  TempDirectory(TempDirectory&& other) noexcept;
  TempDirectory& operator=(TempDirectory&& other) noexcept;
  ~TempDirectory();
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TempDirectory(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

/// A read-only map of a whole file; empty files map to an empty span. Movable; the span dies with the object.
/// Errors: InvalidArgument NOT_A_FILE; what opening and mapping give.
class MappedFile {
 public:
  static StatusOr<MappedFile> Open(const std::filesystem::path& path);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace sbora
