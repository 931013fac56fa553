/// An object store in memory, for tests: the same contract as the real ones, and failures on demand.
///
///     MemoryObjectStore store;
///     store.FailNext("Put", Unavailable("STORE_UNAVAILABLE", "the network is down"));
///     EXPECT_FALSE(store.Put("k", "v", PutMode::kOverwrite).ok());  // and only this once
///
/// Modification times come from a counter (one second per write), so that tests repeat.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/storage/object_store.h"

namespace sbora {

class MemoryObjectStore final : public ObjectStore {
 public:
  Status Put(std::string_view key, std::string_view bytes, PutMode mode) override;
  StatusOr<uint64_t> PutFile(std::string_view key, const std::filesystem::path& path) override;
  StatusOr<std::unique_ptr<ObjectWriter>> StartMultipart(std::string_view key) override;
  StatusOr<std::string> Get(std::string_view key, uint64_t max_bytes) override;
  StatusOr<std::string> GetRange(std::string_view key, uint64_t offset, uint64_t length) override;
  StatusOr<uint64_t> GetToFile(std::string_view key, const std::filesystem::path& path) override;
  StatusOr<ObjectInfo> Head(std::string_view key) override;
  StatusOr<ListPage> List(std::string_view prefix, const ListOptions& options) override;
  Status Copy(std::string_view from, std::string_view to) override;
  Status Delete(std::string_view key) override;
  StatusOr<std::string> PresignGet(std::string_view key, std::chrono::seconds ttl) override;
  StatusOr<std::string> PresignPut(std::string_view key, std::chrono::seconds ttl) override;

  /// The next call of this method ("Put", "PutFile", "StartMultipart", "Complete", "Get", "GetRange", "GetToFile",
  /// "Head", "List", "Copy" or "Delete") fails with `error` and does nothing. Several for one method queue up.
  void FailNext(std::string_view method, Status error);
  /// From now on it presigns: "memory:///{key}" for both methods, which nothing but the test understands.
  void GivePresignedUrls();

 private:
  StatusOr<std::string> Presign(std::string_view key) SBORA_EXCLUDES(mutex_);
  struct Object {
    std::string bytes;
    int64_t version = 0;
  };
  class Writer;

  Status TakeFailure(std::string_view method) SBORA_REQUIRES(mutex_);
  StatusOr<const Object*> Find(std::string_view key) const SBORA_REQUIRES(mutex_);
  Status Store(std::string_view key, std::string_view bytes, PutMode mode) SBORA_EXCLUDES(mutex_);
  static ObjectInfo InfoOf(const Object& object);

  Mutex mutex_;
  std::map<std::string, Object, std::less<>> objects_ SBORA_GUARDED_BY(mutex_);
  std::vector<std::pair<std::string, Status>> failures_ SBORA_GUARDED_BY(mutex_);
  bool presigns_ SBORA_GUARDED_BY(mutex_) = false;
  int64_t next_version_ SBORA_GUARDED_BY(mutex_) = 1;
};

}  // namespace sbora
