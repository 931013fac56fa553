#include "common/storage/counting_object_store.h"

namespace sbora {

std::string_view StoreOperationName(StoreOperation operation) {
  switch (operation) {
    case StoreOperation::kPut: return "put";
    case StoreOperation::kPutFile: return "put_file";
    case StoreOperation::kMultipart: return "multipart";
    case StoreOperation::kGet: return "get";
    case StoreOperation::kGetRange: return "get_range";
    case StoreOperation::kGetToFile: return "get_to_file";
    case StoreOperation::kHead: return "head";
    case StoreOperation::kList: return "list";
    case StoreOperation::kCopy: return "copy";
    case StoreOperation::kDelete: return "delete";
    case StoreOperation::kPresign: return "presign";
  }
  return "unknown";
}

class CountingObjectStore::Writer final : public ObjectWriter {
 public:
  Writer(CountingObjectStore* store, std::unique_ptr<ObjectWriter> inner, MonotonicTime start)
      : store_(store), inner_(std::move(inner)), start_(start) {}

  Status Write(std::string_view bytes) override {
    Status status = inner_->Write(bytes);
    if (status.ok()) bytes_ += bytes.size();
    return status;
  }

  Status Complete() override {
    Status status = inner_->Complete();
    store_->Record(StoreOperation::kMultipart, status.ok(), bytes_, start_);
    return status;
  }

  Status Abort() override { return inner_->Abort(); }

 private:
  CountingObjectStore* store_;  // outlives this, as the header of ObjectWriter requires
  std::unique_ptr<ObjectWriter> inner_;
  const MonotonicTime start_;
  uint64_t bytes_ = 0;
};

void CountingObjectStore::Record(StoreOperation operation, bool ok, uint64_t bytes, MonotonicTime start) {
  if (observer_) observer_({.operation = operation, .ok = ok, .bytes = ok ? bytes : 0, .duration = clock_.Now() - start});
  Cell& cell = cells_[static_cast<size_t>(operation)];
  cell.calls.fetch_add(1, std::memory_order_relaxed);
  if (ok) {
    cell.bytes.fetch_add(bytes, std::memory_order_relaxed);
  } else {
    cell.errors.fetch_add(1, std::memory_order_relaxed);
  }
}

StoreCounts CountingObjectStore::Counts(StoreOperation operation) const {
  const Cell& cell = cells_[static_cast<size_t>(operation)];
  return {cell.calls.load(std::memory_order_relaxed), cell.errors.load(std::memory_order_relaxed),
          cell.bytes.load(std::memory_order_relaxed)};
}

Status CountingObjectStore::Put(std::string_view key, std::string_view bytes, PutMode mode) {
  const MonotonicTime start = clock_.Now();
  Status status = inner_->Put(key, bytes, mode);
  Record(StoreOperation::kPut, status.ok(), bytes.size(), start);
  return status;
}

StatusOr<uint64_t> CountingObjectStore::PutFile(std::string_view key, const std::filesystem::path& path) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->PutFile(key, path);
  Record(StoreOperation::kPutFile, result.ok(), result.ok() ? *result : 0, start);
  return result;
}

StatusOr<uint64_t> CountingObjectStore::MoveFile(std::string_view key, const std::filesystem::path& path) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->MoveFile(key, path);
  Record(StoreOperation::kPutFile, result.ok(), result.ok() ? *result : 0, start);
  return result;
}

StatusOr<std::unique_ptr<ObjectWriter>> CountingObjectStore::StartMultipart(std::string_view key) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->StartMultipart(key);
  if (!result.ok()) {
    Record(StoreOperation::kMultipart, false, 0, start);
    return result;
  }
  return std::unique_ptr<ObjectWriter>(new Writer(this, std::move(result).value(), start));
}

StatusOr<std::string> CountingObjectStore::Get(std::string_view key, uint64_t max_bytes) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->Get(key, max_bytes);
  Record(StoreOperation::kGet, result.ok(), result.ok() ? result->size() : 0, start);
  return result;
}

StatusOr<std::string> CountingObjectStore::GetRange(std::string_view key, uint64_t offset, uint64_t length) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->GetRange(key, offset, length);
  Record(StoreOperation::kGetRange, result.ok(), result.ok() ? result->size() : 0, start);
  return result;
}

StatusOr<uint64_t> CountingObjectStore::GetToFile(std::string_view key, const std::filesystem::path& path) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->GetToFile(key, path);
  Record(StoreOperation::kGetToFile, result.ok(), result.ok() ? *result : 0, start);
  return result;
}

StatusOr<ObjectInfo> CountingObjectStore::Head(std::string_view key) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->Head(key);
  Record(StoreOperation::kHead, result.ok(), 0, start);
  return result;
}

StatusOr<ListPage> CountingObjectStore::List(std::string_view prefix, const ListOptions& options) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->List(prefix, options);
  Record(StoreOperation::kList, result.ok(), 0, start);
  return result;
}

Status CountingObjectStore::Copy(std::string_view from, std::string_view to) {
  const MonotonicTime start = clock_.Now();
  Status status = inner_->Copy(from, to);
  Record(StoreOperation::kCopy, status.ok(), 0, start);
  return status;
}

Status CountingObjectStore::Delete(std::string_view key) {
  const MonotonicTime start = clock_.Now();
  Status status = inner_->Delete(key);
  Record(StoreOperation::kDelete, status.ok(), 0, start);
  return status;
}

StatusOr<std::string> CountingObjectStore::PresignGet(std::string_view key, std::chrono::seconds ttl) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->PresignGet(key, ttl);
  Record(StoreOperation::kPresign, result.ok(), 0, start);
  return result;
}

StatusOr<std::string> CountingObjectStore::PresignPut(std::string_view key, std::chrono::seconds ttl) {
  const MonotonicTime start = clock_.Now();
  auto result = inner_->PresignPut(key, ttl);
  Record(StoreOperation::kPresign, result.ok(), 0, start);
  return result;
}

}  // namespace sbora
