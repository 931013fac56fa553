#include "common/storage/memory_object_store.h"

#include <algorithm>
#include <limits>

#include <fmt/format.h>

#include "common/file.h"
#include "common/status_macros.h"
#include "common/storage/object_checks.h"

namespace sbora {

class MemoryObjectStore::Writer final : public ObjectWriter {
 public:
  Writer(MemoryObjectStore* store, std::string key) : store_(store), key_(std::move(key)) {}

  Status Write(std::string_view bytes) override {
    if (finished_) return UploadFinished();
    bytes_.append(bytes);
    return OkStatus();
  }

  Status Complete() override {
    if (finished_) return UploadFinished();
    finished_ = true;
    {
      const MutexLock lock(store_->mutex_);
      SBORA_RETURN_IF_ERROR(store_->TakeFailure("Complete"));
    }
    return store_->Store(key_, bytes_, PutMode::kOverwrite);
  }

  Status Abort() override {
    if (finished_) return UploadFinished();
    finished_ = true;
    return OkStatus();
  }

 private:
  MemoryObjectStore* store_;  // outlives this, as the header of ObjectWriter requires
  std::string key_;
  std::string bytes_;
  bool finished_ = false;
};

Status MemoryObjectStore::TakeFailure(std::string_view method) {
  const auto found =
      std::find_if(failures_.begin(), failures_.end(), [&](const auto& entry) { return entry.first == method; });
  if (found == failures_.end()) return OkStatus();
  Status error = std::move(found->second);
  failures_.erase(found);
  return error;
}

void MemoryObjectStore::FailNext(std::string_view method, Status error) {
  const MutexLock lock(mutex_);
  failures_.emplace_back(method, std::move(error));
}

StatusOr<const MemoryObjectStore::Object*> MemoryObjectStore::Find(std::string_view key) const {
  const auto found = objects_.find(key);
  if (found == objects_.end()) return NotFound("OBJECT_NOT_FOUND", fmt::format("there is no object {}", key));
  return &found->second;
}

ObjectInfo MemoryObjectStore::InfoOf(const Object& object) {
  return {object.bytes.size(), fmt::format("\"{}\"", object.version),
          std::chrono::system_clock::time_point(std::chrono::seconds(object.version))};
}

Status MemoryObjectStore::Store(std::string_view key, std::string_view bytes, PutMode mode) {
  const MutexLock lock(mutex_);
  const auto found = objects_.find(key);
  if (found != objects_.end() && mode == PutMode::kCreate) {
    Status error = AlreadyExists("OBJECT_EXISTS", fmt::format("there is already an object {}", key));
    return found->second.bytes == bytes ? error.WithMetadata("identical", "true") : error;
  }
  objects_.insert_or_assign(std::string(key), Object{std::string(bytes), next_version_++});
  return OkStatus();
}

Status MemoryObjectStore::Put(std::string_view key, std::string_view bytes, PutMode mode) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  {
    const MutexLock lock(mutex_);
    SBORA_RETURN_IF_ERROR(TakeFailure("Put"));
  }
  return Store(key, bytes, mode);
}

StatusOr<uint64_t> MemoryObjectStore::PutFile(std::string_view key, const std::filesystem::path& path) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  {
    const MutexLock lock(mutex_);
    SBORA_RETURN_IF_ERROR(TakeFailure("PutFile"));
  }
  SBORA_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, std::numeric_limits<int64_t>::max()));
  SBORA_RETURN_IF_ERROR(Store(key, bytes, PutMode::kOverwrite));
  return bytes.size();
}

StatusOr<std::unique_ptr<ObjectWriter>> MemoryObjectStore::StartMultipart(std::string_view key) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  const MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(TakeFailure("StartMultipart"));
  return std::unique_ptr<ObjectWriter>(new Writer(this, std::string(key)));
}

StatusOr<std::string> MemoryObjectStore::Get(std::string_view key, uint64_t max_bytes) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  const MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(TakeFailure("Get"));
  SBORA_ASSIGN_OR_RETURN(const Object* object, Find(key));
  if (object->bytes.size() > max_bytes) return ObjectTooLarge(key, object->bytes.size(), max_bytes);
  return object->bytes;
}

StatusOr<std::string> MemoryObjectStore::GetRange(std::string_view key, uint64_t offset, uint64_t length) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  SBORA_RETURN_IF_ERROR(CheckRange(key, length));
  const MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(TakeFailure("GetRange"));
  SBORA_ASSIGN_OR_RETURN(const Object* object, Find(key));
  if (offset >= object->bytes.size()) {
    return OutOfRange("RANGE_OUTSIDE_OBJECT", fmt::format("reading {}: offset {} is outside the object of {} bytes", key,
                                                          offset, object->bytes.size()));
  }
  return object->bytes.substr(offset, length);
}

StatusOr<uint64_t> MemoryObjectStore::GetToFile(std::string_view key, const std::filesystem::path& path) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  std::string bytes;
  {
    const MutexLock lock(mutex_);
    SBORA_RETURN_IF_ERROR(TakeFailure("GetToFile"));
    SBORA_ASSIGN_OR_RETURN(const Object* object, Find(key));
    bytes = object->bytes;
  }
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(path, bytes));
  return bytes.size();
}

StatusOr<ObjectInfo> MemoryObjectStore::Head(std::string_view key) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  const MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(TakeFailure("Head"));
  SBORA_ASSIGN_OR_RETURN(const Object* object, Find(key));
  return InfoOf(*object);
}

StatusOr<ListPage> MemoryObjectStore::List(std::string_view prefix, const ListOptions& options) {
  SBORA_RETURN_IF_ERROR(CheckList(prefix, options));
  const MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(TakeFailure("List"));
  const std::string folder = prefix.empty() ? "" : std::string(prefix) + "/";
  ListPage page;
  for (auto it = objects_.lower_bound(folder); it != objects_.end() && it->first.starts_with(folder); ++it) {
    if (it->first <= options.start_after) continue;
    if (page.objects.size() == options.max_objects) {
      page.more = true;
      break;
    }
    page.objects.push_back({it->first, InfoOf(it->second)});
  }
  return page;
}

Status MemoryObjectStore::Copy(std::string_view from, std::string_view to) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(from));
  SBORA_RETURN_IF_ERROR(CheckObjectKey(to));
  const MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(TakeFailure("Copy"));
  SBORA_ASSIGN_OR_RETURN(const Object* object, Find(from));
  objects_.insert_or_assign(std::string(to), Object{object->bytes, next_version_++});
  return OkStatus();
}

Status MemoryObjectStore::Delete(std::string_view key) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  const MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(TakeFailure("Delete"));
  if (const auto found = objects_.find(key); found != objects_.end()) objects_.erase(found);
  return OkStatus();
}

StatusOr<std::string> MemoryObjectStore::PresignGet(std::string_view key, std::chrono::seconds) { return Presign(key); }

StatusOr<std::string> MemoryObjectStore::PresignPut(std::string_view key, std::chrono::seconds) { return Presign(key); }

StatusOr<std::string> MemoryObjectStore::Presign(std::string_view key) {
  const MutexLock lock(mutex_);
  if (presigns_) return fmt::format("memory:///{}", key);
  return Unimplemented("PRESIGN_UNSUPPORTED", "this object store has no presigned URLs");
}

void MemoryObjectStore::GivePresignedUrls() {
  const MutexLock lock(mutex_);
  presigns_ = true;
}

}  // namespace sbora
