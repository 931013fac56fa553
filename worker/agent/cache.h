/// Files of the service on this machine, by SHA-256: fetched once, shared by all attempts through hard links, removed
/// least recently used first above a limit, never while in use. Also holds folders that the agent made itself (token
/// caches, NF4 bases), by key. Thread-safe.
///
/// A file's hash is checked when it is fetched, at its first use after Open(), and again when its inode, size or time of
/// modification is another than at the last check. Disks rot silently, and base weights with a wrong bit would train
/// well enough: what fails the check is dropped and fetched anew. Folders are not hashed; what reads them checks them.
///
/// On disk: `files/<sha256>` and `folders/<key>`. An entry that was dropped while somebody had it pinned stays in its
/// place until the last pin goes; what is put in under the same key meanwhile is named `<key>.<n>`, n rising.
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
#include <set>
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

  /// Takes over what is there. `on_damaged` is called for each file that fails its check, from the thread that found
  /// it; it must not call the cache.
  /// Errors: those of the file system.
  static StatusOr<std::unique_ptr<Cache>> Open(const std::filesystem::path& directory, int64_t max_bytes,
                                               std::function<void()> on_damaged = {});

  /// The file, from here or through `fetch`; a second caller for the same file waits for the first. A file of another
  /// size or hash than listed is fetched again. Takes the time of reading the file where a check is due. When the disk is
  /// full, all entries that nobody uses make room first.
  /// Errors: InvalidArgument BAD_FILE (hash or size not a hash or size), those of `fetch`, Cancelled STOPPED.
  StatusOr<CachePin> Get(const v1::File& file, const Fetch& fetch, const std::stop_token& stop);

  /// A folder made here before, by key (64 hex characters); nullopt when there is none.
  std::optional<CachePin> FindFolder(const std::string& key);
  /// Takes over a complete folder by renaming it; when the key is there already, the old one stays and `folder` goes.
  StatusOr<CachePin> AddFolder(const std::string& key, const std::filesystem::path& folder);

  /// Hashes a file again, whatever was checked before. Errors: DataLoss CACHE_DAMAGED when its bytes are others than its
  /// key says or cannot be read (the entry is dropped), Cancelled STOPPED. REQUIRED: the pin is of a file.
  Status Recheck(const CachePin& pin, const std::stop_token& stop);

  /// The entry turned out to be damaged: nobody gets it again. It goes from the disk with its last pin.
  void Drop(const CachePin& pin);

  int64_t used_bytes() const;

 private:
  friend class CachePin;
  /// Which bytes a check has seen.
  struct Identity {
    uint64_t inode = 0;
    int64_t size_bytes = 0;
    int64_t modified_ns = 0;
    bool operator==(const Identity&) const = default;
  };
  struct Entry {
    std::filesystem::path path;
    int64_t size_bytes = 0;
    int64_t used_ns = 0;  // wall time; kept as the time of access, so that the order of use survives a restart
    int pins = 0;
    std::optional<Identity> checked = {};  // by this process
  };
  /// Out of entries_, still in use.
  struct Dropped {
    std::string key;
    int pins = 0;
  };

  Cache(std::filesystem::path directory, int64_t max_bytes, std::function<void()> on_damaged)
      : directory_(std::move(directory)), max_bytes_(max_bytes), on_damaged_(std::move(on_damaged)) {}
  static std::optional<Identity> IdentityOf(const std::filesystem::path& path);
  Status Scan();
  StatusOr<std::optional<CachePin>> FindOrClaim(const v1::File& file, const std::stop_token& stop);
  StatusOr<CachePin> FetchClaimed(const v1::File& file, const Fetch& fetch);
  void Unclaim(const std::string& key);
  void TakeOverLocked(const std::filesystem::path& path, const std::string& key, int64_t number) SBORA_REQUIRES(mutex_);
  std::filesystem::path FreePathLocked(const char* part, const std::string& key) SBORA_REQUIRES(mutex_);
  CachePin PinLocked(const std::string& key) SBORA_REQUIRES(mutex_);
  void DropLocked(const std::string& key) SBORA_REQUIRES(mutex_);
  void EvictLocked() SBORA_REQUIRES(mutex_);
  void Unpin(const std::string& key, const std::filesystem::path& path);
  void RemoveAllUnusedLocked() SBORA_REQUIRES(mutex_);
  bool UsableLocked(const std::string& key, int64_t size_bytes) SBORA_REQUIRES(mutex_);

  const std::filesystem::path directory_;
  const int64_t max_bytes_;
  const std::function<void()> on_damaged_;
  mutable Mutex mutex_;
  std::condition_variable_any unclaimed_;
  std::map<std::string, Entry> entries_ SBORA_GUARDED_BY(mutex_);
  std::map<std::filesystem::path, Dropped> dropped_ SBORA_GUARDED_BY(mutex_);
  int64_t last_number_ SBORA_GUARDED_BY(mutex_) = 1;  // the highest n in a name `<key>.<n>`
  std::set<std::string> claimed_ SBORA_GUARDED_BY(mutex_);  // being checked or fetched by one thread
};

/// OK for a name of letters, digits, '.', '_' and '-' that is neither empty, "." nor ".." nor longer than 200; else
/// InvalidArgument BAD_FILE_NAME.
Status CheckFileName(std::string_view name);

/// Makes `folder` and puts each pinned file into it under its name: a hard link, or a symbolic one across file systems.
/// REQUIRED: as many pins as files.
Status Materialise(const std::filesystem::path& folder, const google::protobuf::RepeatedPtrField<v1::File>& files,
                   const std::vector<CachePin>& pins);

}  // namespace sbora::agent
