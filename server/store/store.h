/// Durable state of the coordinator. One writer (the store thread, through CommitQueue), any number of readers, who see
/// committed state only. Implementation: SqliteStore (server/store/sqlite_store.h).
///
/// Errors of reads: NOT_FOUND <KIND>_NOT_FOUND naming the resource; UNAVAILABLE STORE_UNAVAILABLE when the store cannot
/// be read. Threading: reads from any thread; Commit from one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "server/store/rows.h"

namespace sbora::server {

/// Changes that become durable together.
struct WriteSet {
  std::vector<Mutation> mutations;
  /// True for writes of services: a failed precondition undoes this set alone. False for the scheduler's: a failed
  /// precondition means memory and store have parted, and fails the batch.
  bool may_fail = false;
};

/// Everything the scheduler needs to go on after a restart.
struct ActiveState {
  std::vector<Work> works;  // not terminal, and terminal ones whose lease has not ended yet; in order of acceptance
  std::vector<LeaseRow> leases;
  std::vector<WorkerRow> workers;
  std::vector<CheckpointRow> checkpoints;  // of the work that is not terminal; by work, steps ascending
};

/// One thing of a work's stream, in order of sequence.
struct StreamItem {
  int64_t sequence = 0;
  std::optional<EventRow> event;
  std::optional<MetricRow> metric;
};

/// `cursor` is the last key of the page before; empty for the first. `next_cursor` is empty on the last page.
template <typename Row>
struct Page {
  std::vector<Row> rows;
  std::string next_cursor;
};

/// The regions of one project on one base.
struct HeldRegions {
  std::vector<RegionRow> rows;  // by sequence
  int64_t sequence = 0;         // the highest given out so far, on any base
  /// An adapter or unended training job of the project without regions, of any base: made before regions were recorded
  /// (schema 1). Empty: there is none.
  std::string unrecorded;
};

struct WorkQuery {
  std::string project;                   // empty: all
  std::vector<WorkKind> kinds;           // empty: all
  std::vector<core::JobState> states;    // empty: all
  int page_size = 50;
  std::string cursor;
};

class Store {
 public:
  virtual ~Store() = default;

  /// One durable transaction. Result: one status for each set (only sets with may_fail can fail on their own). An error
  /// of the whole: nothing was written.
  virtual StatusOr<std::vector<Status>> Commit(std::span<const WriteSet* const> batch) = 0;

  virtual StatusOr<ActiveState> LoadActive() const = 0;

  virtual StatusOr<Work> GetWork(std::string_view name) const = 0;
  virtual StatusOr<Work> GetWorkByUid(std::string_view uid) const = 0;
  /// The work a lease was granted for, if the work still is there; by lease uid of its accepted commit.
  virtual StatusOr<std::optional<Work>> FindCommittedBy(std::string_view lease_uid) const = 0;
  /// Newest first.
  virtual StatusOr<Page<Work>> ListWork(const WorkQuery& query) const = 0;
  virtual StatusOr<std::vector<EventRow>> ListEvents(std::string_view work_uid, int64_t after_sequence,
                                                     int limit) const = 0;
  /// How many of one kind and project are in each state, in one walk of an index.
  virtual StatusOr<std::map<core::JobState, int64_t>> CountWork(std::string_view project, WorkKind kind) const = 0;
  /// Events and metrics merged by sequence, for replay.
  virtual StatusOr<std::vector<StreamItem>> ListStream(std::string_view work_uid, int64_t after_sequence,
                                                       int limit) const = 0;
  /// The newest attempt's point of each step, steps ascending, after `after_step` (-1 for all).
  virtual StatusOr<std::vector<MetricRow>> ListMetrics(std::string_view work_uid, int64_t after_step,
                                                       int limit) const = 0;
  virtual StatusOr<std::vector<CheckpointRow>> ListCheckpoints(std::string_view work_uid, int64_t after_step,
                                                               int limit) const = 0;

  virtual StatusOr<ResourceRow> GetResource(std::string_view name) const = 0;
  /// Newest first. An empty project lists all projects.
  virtual StatusOr<Page<ResourceRow>> ListResources(ResourceKind kind, std::string_view project, int page_size,
                                                    std::string_view cursor) const = 0;
  /// Names reserved by work that has not ended and names that exist.
  virtual StatusOr<bool> IsNameTaken(std::string_view name) const = 0;
  virtual StatusOr<std::optional<RequestRow>> FindRequest(std::string_view project, std::string_view request_id) const = 0;

  virtual StatusOr<HeldRegions> ListRegions(std::string_view project, std::string_view base_hash) const = 0;
  /// By the adapter's name.
  virtual StatusOr<std::optional<RegionRow>> FindRegions(std::string_view adapter) const = 0;

  virtual StatusOr<UploadRow> GetUpload(std::string_view uid) const = 0;
  virtual StatusOr<std::vector<UploadRow>> ListExpiredUploads(int64_t now_ms, int limit) const = 0;
  virtual StatusOr<ObjectRow> GetObject(std::string_view uid) const = 0;
  virtual StatusOr<std::vector<ObjectRow>> ListUnownedObjects(int64_t created_before_ms, int limit) const = 0;
  /// Keys whose time has come, ascending, after `after_key` ("" for all).
  virtual StatusOr<std::vector<std::string>> ListDoomedKeys(int64_t now_ms, std::string_view after_key, int limit) const = 0;

  virtual StatusOr<std::vector<WorkerRow>> ListWorkers() const = 0;
  virtual StatusOr<int> SchemaVersion() const = 0;
  /// "sqlite", for GetServerInfo.
  virtual std::string_view kind() const = 0;
};

}  // namespace sbora::server
