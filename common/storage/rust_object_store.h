/// Directories and S3 through the Rust crate `object_store`. Use OpenObjectStore instead.
#pragma once

#include <memory>
#include <string>

#include "common/storage/object_store.h"

struct SboraFfiStore;

namespace sbora {

/// Where a store lies, from its URL: a directory, or a bucket with an optional prefix.
struct StoreLocation {
  std::string directory;
  std::string bucket;
  std::string prefix;
};

class RustObjectStore final : public ObjectStore {
 public:
  static StatusOr<std::unique_ptr<ObjectStore>> Open(const StoreLocation& location, const ObjectStoreOptions& options);
  ~RustObjectStore() override;
  RustObjectStore(const RustObjectStore&) = delete;
  RustObjectStore& operator=(const RustObjectStore&) = delete;

  Status Put(std::string_view key, std::string_view bytes, PutMode mode) override;
  StatusOr<uint64_t> PutFile(std::string_view key, const std::filesystem::path& path) override;
  StatusOr<uint64_t> MoveFile(std::string_view key, const std::filesystem::path& path) override;
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

 private:
  RustObjectStore(SboraFfiStore* handle, std::filesystem::path directory)
      : handle_(handle), directory_(std::move(directory)) {}
  StatusOr<std::string> Presign(std::string_view key, bool put, std::chrono::seconds ttl);

  SboraFfiStore* handle_;  // owned
  const std::filesystem::path directory_;  // empty for S3
};

}  // namespace sbora
