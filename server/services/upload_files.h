/// The bytes of unfinished uploads: one part file each in data_dir/uploads, appended to in order.
///
/// A part file survives a crash of the server; `Received` is its length. Thread-safe. One writer at a time: a newer
/// writer takes over, and the older one's next chunk is ABORTED UPLOAD_TAKEN_OVER (its connection is most likely dead).
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "common/file.h"
#include "common/mutex.h"
#include "common/status.h"

namespace sbora::server {

class UploadFiles {
 public:
  /// Makes the folder. Errors: of the file system.
  static StatusOr<std::unique_ptr<UploadFiles>> Create(const std::filesystem::path& directory);

  /// One writer of one upload. Not thread-safe; must not outlive the UploadFiles.
  class Writer {
   public:
    ~Writer();
    int64_t received_bytes() const;
    /// `offset` must be received_bytes(): OUT_OF_RANGE UPLOAD_OFFSET names the one expected; UPLOAD_TOO_LONG above the
    /// announced size; RESOURCE_EXHAUSTED NO_SPACE.
    Status Append(int64_t offset, std::string_view data);
    /// fsync: what was received is durable.
    Status Sync();

   private:
    friend class UploadFiles;
    struct Entry;
    Writer(std::shared_ptr<Entry> entry, int64_t generation) : entry_(std::move(entry)), generation_(generation) {}
    std::shared_ptr<Entry> entry_;  // shared with the table, where a newer writer finds it, until Remove
    int64_t generation_;
  };

  StatusOr<std::unique_ptr<Writer>> Open(const std::string& uid, int64_t size_bytes);
  /// Length of the part file, 0 when there is none.
  int64_t Received(const std::string& uid) const;
  struct Sealed {
    std::filesystem::path path;
    int64_t received_bytes = 0;
    std::string sha256;  ///< empty while received_bytes is below the announced size
  };
  /// The part file (made empty when missing), with every other writer shut out and synced. Bytes are hashed as they come:
  /// the file is read again only for what another process received.
  StatusOr<Sealed> Seal(const std::string& uid, int64_t size_bytes);
  /// Shuts out its writers, too.
  void Remove(const std::string& uid);

 private:
  explicit UploadFiles(std::filesystem::path directory) : directory_(std::move(directory)) {}
  std::filesystem::path PathOf(const std::string& uid) const { return directory_ / (uid + ".part"); }

  /// The table's, made when it is missing.
  std::shared_ptr<Writer::Entry> EntryOf(const std::string& uid, int64_t size_bytes);

  const std::filesystem::path directory_;
  Mutex mutex_;
  std::map<std::string, std::shared_ptr<Writer::Entry>> entries_ SBORA_GUARDED_BY(mutex_);
};

}  // namespace sbora::server
