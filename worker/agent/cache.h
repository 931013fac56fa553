/// Files of the service on this machine, by SHA-256: fetched once, checked when fetched, shared by all attempts through
/// hard links, removed least recently used first above a limit, never while in use. Also holds folders that the agent
/// made itself (token caches, NF4 bases), by key. Thread-safe.
///
///     SBORA_ASSIGN_OR_RETURN(CachePin pin, cache->Get(file, fetch, stop));   // in use while `pin` lives
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/status.h"
#include "sbora/v1/common.pb.h"

namespace sbora::agent {

class Cache;

/// Keeps one entry from being removed. Movable; must not outlive its Cache.
class CachePin {
 public:
  CachePin() = default;
  CachePin(CachePin&& other) noexcept;
  CachePin& operator=(CachePin&& other) noexcept;
  ~CachePin();
  const std::filesystem::path& path() const { return path_; }

 private:
  friend class Cache;
  CachePin(Cache* cache, std::string key, std::filesystem::path path)
      : cache_(cache), key_(std::move(key)), path_(std::move(path)) {}
  void Release();
  Cache* cache_ = nullptr;  // borrowed
  std::string key_;
  std::filesystem::path path_;
};

class Cache {
 public:
  /// Puts the checked bytes at the path it is given, or fails and leaves nothing there.
  using Fetch = std::function<Status(const std::filesystem::path& destination)>;

  /// Takes over what is there. Errors: those of the file system.
  static StatusOr<std::unique_ptr<Cache>> Open(const std::filesystem::path& directory, int64_t max_bytes);

  /// The file, from here or through `fetch`; a second caller for the same file waits for the first. A file whose size
  /// is not the listed one is fetched again. When the disk is full, all entries that nobody uses make room first. Errors: InvalidArgument BAD_FILE (hash or size not a hash or size), those
  /// of `fetch`, Cancelled STOPPED.
  StatusOr<CachePin> Get(const v1::File& file, const Fetch& fetch, const std::stop_token& stop);

  /// A folder made here before, by key (64 hex characters); nullopt when there is none.
  std::optional<CachePin> FindFolder(const std::string& key);
  /// Takes over a complete folder by renaming it; when the key is there already, the old one stays and `folder` goes.
  StatusOr<CachePin> AddFolder(const std::string& key, const std::filesystem::path& folder);

  /// The entry turned out to be damaged: nobody gets it again. Who has it pinned keeps its files open or linked.
  void Drop(const CachePin& pin);

  int64_t used_bytes() const;

 private:
  friend class CachePin;
  struct Entry {
    std::filesystem::path path;
    int64_t size_bytes = 0;
    std::filesystem::file_time_type used;
    int pins = 0;
    bool dropped = false;  // its files are gone; the entry goes with the last pin
  };

  Cache(std::filesystem::path directory, int64_t max_bytes) : directory_(std::move(directory)), max_bytes_(max_bytes) {}
  Status Scan();
  CachePin PinLocked(const std::string& key) SBORA_REQUIRES(mutex_);
  void InsertLocked(const std::string& key, Entry entry) SBORA_REQUIRES(mutex_);
  void EvictLocked() SBORA_REQUIRES(mutex_);
  void Unpin(const std::string& key);
  void RemoveAllUnusedLocked() SBORA_REQUIRES(mutex_);
  bool UsableLocked(const std::string& key, int64_t size_bytes) SBORA_REQUIRES(mutex_);

  const std::filesystem::path directory_;
  const int64_t max_bytes_;
  mutable Mutex mutex_;
  std::condition_variable_any fetched_;
  std::map<std::string, Entry> entries_ SBORA_GUARDED_BY(mutex_);
  std::map<std::string, bool> fetching_ SBORA_GUARDED_BY(mutex_);
};

/// OK for a name of letters, digits, '.', '_' and '-' that is neither empty, "." nor ".." nor longer than 200; else
/// InvalidArgument BAD_FILE_NAME.
Status CheckFileName(std::string_view name);

/// Makes `folder` and puts each pinned file into it under its name: a hard link, or a symbolic one across file systems.
/// REQUIRED: as many pins as files.
Status Materialise(const std::filesystem::path& folder, const google::protobuf::RepeatedPtrField<v1::File>& files,
                   const std::vector<CachePin>& pins);

}  // namespace sbora::agent
