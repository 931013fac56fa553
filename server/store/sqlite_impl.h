/// The SQLite store's class. Private to server/store.
#pragma once

#include <condition_variable>
#include <memory>
#include <vector>

#include "common/file.h"
#include "common/mutex.h"
#include "server/store/sqlite_db.h"
#include "server/store/sqlite_store.h"

namespace sbora::server {

/// A fixed set of read-only connections; a read borrows one for its own length.
class ReaderPool {
 public:
  explicit ReaderPool(std::vector<std::unique_ptr<SqliteDb>> readers) : idle_(std::move(readers)) {}

  class Borrowed {
   public:
    Borrowed(ReaderPool& pool, std::unique_ptr<SqliteDb> db) : pool_(pool), db_(std::move(db)) {}
    Borrowed(Borrowed&&) = default;
    ~Borrowed() {
      if (db_) pool_.Return(std::move(db_));
    }
    SqliteDb* operator->() { return db_.get(); }
    SqliteDb& operator*() { return *db_; }

   private:
    ReaderPool& pool_;
    std::unique_ptr<SqliteDb> db_;
  };
  /// Waits for an idle connection.
  Borrowed Borrow();

 private:
  void Return(std::unique_ptr<SqliteDb> db);

  Mutex mutex_;
  std::condition_variable_any returned_;
  std::vector<std::unique_ptr<SqliteDb>> idle_ SBORA_GUARDED_BY(mutex_);
};

class SqliteStore : public Store {
 public:
  SqliteStore(UniqueFd lock, SqliteDb writer, std::vector<std::unique_ptr<SqliteDb>> readers)
      : lock_(std::move(lock)), writer_(std::move(writer)), readers_(std::move(readers)) {}

  StatusOr<std::vector<Status>> Commit(std::span<const WriteSet* const> batch) override;
  StatusOr<ActiveState> LoadActive() const override;
  StatusOr<Work> GetWork(std::string_view name) const override;
  StatusOr<Work> GetWorkByUid(std::string_view uid) const override;
  StatusOr<std::optional<Work>> FindCommittedBy(std::string_view lease_uid) const override;
  StatusOr<Page<Work>> ListWork(const WorkQuery& query) const override;
  StatusOr<std::map<core::JobState, int64_t>> CountWork(std::string_view project, WorkKind kind) const override;
  StatusOr<std::vector<EventRow>> ListEvents(std::string_view work_uid, int64_t after_sequence,
                                             int limit) const override;
  StatusOr<std::vector<StreamItem>> ListStream(std::string_view work_uid, int64_t after_sequence,
                                               int limit) const override;
  StatusOr<std::vector<MetricRow>> ListMetrics(std::string_view work_uid, int64_t after_step, int limit) const override;
  StatusOr<std::vector<CheckpointRow>> ListCheckpoints(std::string_view work_uid, int64_t after_step,
                                                       int limit) const override;
  StatusOr<ResourceRow> GetResource(std::string_view name) const override;
  StatusOr<Page<ResourceRow>> ListResources(ResourceKind kind, std::string_view project, int page_size,
                                            std::string_view cursor) const override;
  StatusOr<bool> IsNameTaken(std::string_view name) const override;
  StatusOr<std::optional<RequestRow>> FindRequest(std::string_view project, std::string_view request_id) const override;
  StatusOr<HeldRegions> ListRegions(std::string_view project, std::string_view base_hash) const override;
  StatusOr<std::optional<RegionRow>> FindRegions(std::string_view adapter) const override;
  StatusOr<UploadRow> GetUpload(std::string_view uid) const override;
  StatusOr<std::vector<UploadRow>> ListExpiredUploads(int64_t now_ms, int limit) const override;
  StatusOr<ObjectRow> GetObject(std::string_view uid) const override;
  StatusOr<std::vector<ObjectRow>> ListUnownedObjects(int64_t created_before_ms, int limit) const override;
  StatusOr<std::vector<std::string>> ListDoomedKeys(int64_t now_ms, std::string_view after_key, int limit) const override;
  StatusOr<std::vector<WorkerRow>> ListWorkers() const override;
  StatusOr<int> SchemaVersion() const override;
  std::string_view kind() const override { return "sqlite"; }

 private:
  /// Applies one set between savepoints; a failed precondition of a set that may fail undoes it alone, into `*result`.
  Status ApplySet(const WriteSet& set, Status* result);
  StatusOr<std::vector<Status>> ApplyBatch(std::span<const WriteSet* const> batch);

  const UniqueFd lock_;
  SqliteDb writer_;  // the store thread's
  mutable ReaderPool readers_;
};

}  // namespace sbora::server
