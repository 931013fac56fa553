/// A decorator that counts calls, failures and bytes of another store, and tells an observer of each call: for metrics and
/// tests.
///
/// Threading: as the store inside; Counts() may be read at any time, and the observer is called on the caller's thread.
/// Presigning counts as a call (it moves no bytes here).
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <string_view>

#include "common/clock.h"
#include "common/storage/object_store.h"

namespace sbora {

enum class StoreOperation { kPut, kPutFile, kMultipart, kGet, kGetRange, kGetToFile, kHead, kList, kCopy, kDelete, kPresign };
inline constexpr size_t kStoreOperations = 11;

/// "put", "put_file" and so on: a metric label.
std::string_view StoreOperationName(StoreOperation operation);

struct StoreCounts {
  uint64_t calls = 0;
  uint64_t errors = 0;  ///< calls that failed, OBJECT_NOT_FOUND and OBJECT_EXISTS included
  uint64_t bytes = 0;   ///< moved by calls that succeeded
};

struct StoreCall {
  StoreOperation operation = StoreOperation::kPut;
  bool ok = false;
  uint64_t bytes = 0;   ///< moved; 0 for a call that failed
  Duration duration{};  ///< of a multipart upload, from its start to its completion
};

class CountingObjectStore final : public ObjectStore {
 public:
  explicit CountingObjectStore(std::unique_ptr<ObjectStore> inner, std::function<void(const StoreCall&)> observer = {},
                               const Clock& clock = SystemClock())
      : inner_(std::move(inner)), observer_(std::move(observer)), clock_(clock) {}

  Status Put(std::string_view key, std::string_view bytes, PutMode mode) override;
  StatusOr<uint64_t> PutFile(std::string_view key, const std::filesystem::path& path) override;
  StatusOr<uint64_t> MoveFile(std::string_view key, const std::filesystem::path& path) override;
  /// One call per upload, counted when it completes or fails to; its bytes then.
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

  StoreCounts Counts(StoreOperation operation) const;

 private:
  struct Cell {
    std::atomic<uint64_t> calls{0};
    std::atomic<uint64_t> errors{0};
    std::atomic<uint64_t> bytes{0};
  };
  class Writer;

  void Record(StoreOperation operation, bool ok, uint64_t bytes, MonotonicTime start);

  std::unique_ptr<ObjectStore> inner_;
  const std::function<void(const StoreCall&)> observer_;
  const Clock& clock_;  // must outlive this
  std::array<Cell, kStoreOperations> cells_;
};

}  // namespace sbora
