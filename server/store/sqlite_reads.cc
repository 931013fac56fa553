#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "server/store/sqlite_impl.h"
#include "server/store/sqlite_migrate.h"
#include "server/store/sqlite_rows.h"

namespace sbora::server {
namespace {

template <typename Row, typename Read>
StatusOr<std::vector<Row>> Collect(Rows rows, const Read& read) {
  std::vector<Row> all;
  while (rows.Next()) all.push_back(read(rows));
  if (!rows.status().ok()) return rows.status();
  return all;
}

template <typename Row, typename Read>
StatusOr<Row> One(Rows rows, const Read& read, Status missing) {
  if (rows.Next()) return read(rows);
  if (!rows.status().ok()) return rows.status();
  return missing;
}

std::string SelectWork(std::string_view where) {
  return fmt::format("SELECT {} FROM works w JOIN work_payloads p ON p.work_uid = w.uid {}", kWorkColumns, where);
}

constexpr WorkKind kAllKinds[] = {WorkKind::kTrain,  WorkKind::kEvaluate, WorkKind::kGenerate,
                                  WorkKind::kImport, WorkKind::kMerge,    WorkKind::kExport};

/// Above every UUID, so that a first page needs no statement of its own.
constexpr std::string_view kEndOfUids = "~";

EventRow ReadEvent(const Rows& r) {
  return EventRow{.work_uid = r.Text(0),
                  .sequence = r.Int(1),
                  .time_ms = r.Int(2),
                  .level = r.Int32(3),
                  .type = r.Text(4),
                  .message = r.Text(5),
                  .attempt = r.Int32(6)};
}

MetricRow ReadMetric(const Rows& r) {
  return MetricRow{
      .work_uid = r.Text(0), .attempt = r.Int32(1), .step = r.Int(2), .sequence = r.Int(3), .payload = r.Text(4)};
}

constexpr std::string_view kCheckpointColumns = "work_uid, step, attempt, create_ms, files, validation_loss, objects";

CheckpointRow ReadCheckpoint(const Rows& r) {
  CheckpointRow row{.work_uid = r.Text(0),
                    .step = r.Int(1),
                    .attempt = r.Int32(2),
                    .create_ms = r.Int(3),
                    .files = r.Text(4),
                    .validation_loss = {},
                    .object_uids = SplitLines(r.Text(6))};
  if (!r.IsNull(5)) row.validation_loss = r.Real(5);
  return row;
}
/// Adapters (kind 3) and unended training jobs (kind 1) without regions.
constexpr std::string_view kUnrecorded =
    "SELECT name FROM resources r WHERE project=?1 AND kind=3 AND NOT EXISTS (SELECT 1 FROM regions WHERE name=r.name) "
    "UNION ALL SELECT name FROM works w WHERE project=?1 AND kind=1 AND state<9 AND NOT EXISTS "
    "(SELECT 1 FROM regions WHERE work_uid=w.uid) LIMIT 1";

constexpr std::string_view kSelectEvents =
    "SELECT work_uid, sequence, time_ms, level, type, message, attempt FROM events WHERE work_uid=? AND sequence>? "
    "ORDER BY sequence LIMIT ?";

}  // namespace

StatusOr<ActiveState> SqliteStore::LoadActive() const {
  auto db = readers_.Borrow();
  SBORA_RETURN_IF_ERROR(db->Script("BEGIN"));  // one snapshot for all reads
  const auto load = [&]() -> StatusOr<ActiveState> {
    ActiveState state;
    SBORA_ASSIGN_OR_RETURN(state.works,
                           Collect<Work>(db->Query(SelectWork("WHERE w.uid IN (SELECT uid FROM works WHERE state < 9 "
                                                              "UNION SELECT work_uid FROM leases) ORDER BY w.rowid")),
                                         ReadWork));
    SBORA_ASSIGN_OR_RETURN(
        state.leases,
        Collect<LeaseRow>(db->Query(fmt::format("SELECT {} FROM leases ORDER BY uid", kLeaseColumns)), ReadLease));
    SBORA_ASSIGN_OR_RETURN(
        state.workers,
        Collect<WorkerRow>(db->Query(fmt::format("SELECT {} FROM workers ORDER BY name", kWorkerColumns)), ReadWorker));
    SBORA_ASSIGN_OR_RETURN(state.checkpoints,
                           Collect<CheckpointRow>(db->Query(fmt::format("SELECT {} FROM checkpoints WHERE work_uid IN (SELECT uid "
                                                                        "FROM works WHERE state < 9) ORDER BY work_uid, step",
                                                                        kCheckpointColumns)),
                                                  ReadCheckpoint));
    return state;
  };
  StatusOr<ActiveState> state = load();
  SBORA_RETURN_IF_ERROR(db->Script("COMMIT"));
  return state;
}

StatusOr<Work> SqliteStore::GetWork(std::string_view name) const {
  auto db = readers_.Borrow();
  return One<Work>(db->Query(SelectWork("WHERE w.name=?"), name), ReadWork,
                   NotFound("WORK_NOT_FOUND", fmt::format("{} does not exist", name)));
}

StatusOr<Work> SqliteStore::GetWorkByUid(std::string_view uid) const {
  auto db = readers_.Borrow();
  return One<Work>(db->Query(SelectWork("WHERE w.uid=?"), uid), ReadWork,
                   NotFound("WORK_NOT_FOUND", fmt::format("work {} does not exist", uid)));
}

StatusOr<std::optional<Work>> SqliteStore::FindCommittedBy(std::string_view lease_uid) const {
  auto db = readers_.Borrow();
  SBORA_ASSIGN_OR_RETURN(
      auto works,
      Collect<Work>(db->Query(SelectWork("WHERE w.committed_lease<>'' AND w.committed_lease=?"), lease_uid), ReadWork));
  if (works.empty()) return std::optional<Work>();
  return std::optional<Work>(std::move(works.front()));
}

StatusOr<Page<Work>> SqliteStore::ListWork(const WorkQuery& query) const {
  auto db = readers_.Borrow();
  const std::string_view before = query.cursor.empty() ? kEndOfUids : std::string_view(query.cursor);
  const int limit = query.page_size + 1;  // one more tells whether there is a next page
  std::vector<WorkKind> kinds = query.kinds;
  if (kinds.empty()) kinds.assign(std::begin(kAllKinds), std::end(kAllKinds));
  // One index walk for each (kind, state), each at most a page long, merged here: a filter for a rare state among
  // 100,000 jobs costs no more than any other.
  const std::string in_project = query.project.empty() ? "" : "project=?1 AND ";
  const std::string of_kind = "SELECT uid FROM works WHERE " + in_project + "kind=?2 AND uid<?3 ORDER BY uid DESC LIMIT ?4";
  const std::string of_state =
      "SELECT uid FROM works WHERE " + in_project + "kind=?2 AND uid<?3 AND state=?5 ORDER BY uid DESC LIMIT ?4";
  std::vector<std::string> uids;
  const auto read_uid = [](const Rows& rows) { return rows.Text(0); };
  const auto add = [&uids](const std::vector<std::string>& found) { uids.insert(uids.end(), found.begin(), found.end()); };
  for (const WorkKind kind : kinds) {
    const int kind_number = static_cast<int>(kind);
    if (query.states.empty()) {
      SBORA_ASSIGN_OR_RETURN(
          auto found, Collect<std::string>(db->Query(of_kind, query.project, kind_number, before, limit), read_uid));
      add(found);
    }
    for (const core::JobState state : query.states) {
      SBORA_ASSIGN_OR_RETURN(
          auto found, Collect<std::string>(
                          db->Query(of_state, query.project, kind_number, before, limit, static_cast<int>(state)), read_uid));
      add(found);
    }
  }
  std::sort(uids.begin(), uids.end(), std::greater<>());
  uids.erase(std::unique(uids.begin(), uids.end()), uids.end());
  Page<Work> page;
  if (std::ssize(uids) > query.page_size) {
    uids.resize(static_cast<size_t>(query.page_size));
    page.next_cursor = uids.back();
  }
  const std::string by_uid = SelectWork("WHERE w.uid=?");
  for (const std::string& uid : uids) {
    SBORA_ASSIGN_OR_RETURN(auto works, Collect<Work>(db->Query(by_uid, uid), ReadWork));
    for (Work& work : works) page.rows.push_back(std::move(work));  // none when it was deleted between the two reads
  }
  return page;
}

StatusOr<std::map<core::JobState, int64_t>> SqliteStore::CountWork(std::string_view project, WorkKind kind) const {
  auto db = readers_.Borrow();
  using Count = std::pair<core::JobState, int64_t>;
  SBORA_ASSIGN_OR_RETURN(
      const auto counts,
      Collect<Count>(db->Query("SELECT state, COUNT(*) FROM works WHERE project=? AND kind=? GROUP BY state", project,
                               static_cast<int>(kind)),
                     [](const Rows& r) { return Count(static_cast<core::JobState>(r.Int32(0)), r.Int(1)); }));
  return std::map<core::JobState, int64_t>(counts.begin(), counts.end());
}

StatusOr<std::vector<EventRow>> SqliteStore::ListEvents(std::string_view work_uid, int64_t after_sequence,
                                                        int limit) const {
  auto db = readers_.Borrow();
  return Collect<EventRow>(db->Query(kSelectEvents, work_uid, after_sequence, limit), ReadEvent);
}

StatusOr<std::vector<StreamItem>> SqliteStore::ListStream(std::string_view work_uid, int64_t after_sequence,
                                                          int limit) const {
  auto db = readers_.Borrow();
  // One snapshot for both reads: a commit between them could otherwise hide an event behind a later metric.
  SBORA_RETURN_IF_ERROR(db->Script("BEGIN"));
  auto events = Collect<EventRow>(db->Query(kSelectEvents, work_uid, after_sequence, limit), ReadEvent);
  auto metrics = Collect<MetricRow>(
      db->Query("SELECT work_uid, attempt, step, sequence, payload FROM metrics WHERE work_uid=? AND sequence>? "
                "ORDER BY sequence LIMIT ?",
                work_uid, after_sequence, limit),
      ReadMetric);
  SBORA_RETURN_IF_ERROR(db->Script("COMMIT"));
  if (!events.ok()) return events.status();
  if (!metrics.ok()) return metrics.status();
  std::vector<StreamItem> items;
  for (EventRow& event : *events) items.push_back({.sequence = event.sequence, .event = std::move(event), .metric = {}});
  for (MetricRow& point : *metrics) items.push_back({.sequence = point.sequence, .event = {}, .metric = std::move(point)});
  std::sort(items.begin(), items.end(),
            [](const StreamItem& a, const StreamItem& b) { return a.sequence < b.sequence; });
  if (std::ssize(items) > limit) items.resize(static_cast<size_t>(limit));
  return items;
}

StatusOr<std::vector<MetricRow>> SqliteStore::ListMetrics(std::string_view work_uid, int64_t after_step,
                                                          int limit) const {
  auto db = readers_.Borrow();
  // SQLite gives the bare columns of the row that holds the maximum.
  return Collect<MetricRow>(db->Query("SELECT work_uid, max(attempt), step, sequence, payload FROM metrics "
                                      "WHERE work_uid=? AND step>? GROUP BY step ORDER BY step LIMIT ?",
                                      work_uid, after_step, limit),
                            ReadMetric);
}

StatusOr<std::vector<CheckpointRow>> SqliteStore::ListCheckpoints(std::string_view work_uid, int64_t after_step,
                                                                  int limit) const {
  auto db = readers_.Borrow();
  return Collect<CheckpointRow>(
      db->Query(fmt::format("SELECT {} FROM checkpoints WHERE work_uid=? AND step>? ORDER BY step LIMIT ?", kCheckpointColumns),
                work_uid, after_step, limit),
      ReadCheckpoint);
}

StatusOr<ResourceRow> SqliteStore::GetResource(std::string_view name) const {
  auto db = readers_.Borrow();
  return One<ResourceRow>(db->Query(fmt::format("SELECT {} FROM resources WHERE name=?", kResourceColumns), name),
                          ReadResource, NotFound("RESOURCE_NOT_FOUND", fmt::format("{} does not exist", name)));
}

StatusOr<Page<ResourceRow>> SqliteStore::ListResources(ResourceKind kind, std::string_view project, int page_size,
                                                       std::string_view cursor) const {
  auto db = readers_.Borrow();
  const std::string_view before = cursor.empty() ? kEndOfUids : cursor;
  const std::string_view in_project = project.empty() ? "" : "AND project=?4 ";
  const std::string sql =
      fmt::format("SELECT {} FROM resources WHERE kind=?1 AND uid<?2 {}ORDER BY uid DESC LIMIT ?3", kResourceColumns,
                  in_project);
  Page<ResourceRow> page;
  SBORA_ASSIGN_OR_RETURN(page.rows, Collect<ResourceRow>(db->Query(sql, static_cast<int>(kind), before, page_size + 1,
                                                                   project),
                                                         ReadResource));
  if (std::ssize(page.rows) > page_size) {
    page.rows.resize(static_cast<size_t>(page_size));
    page.next_cursor = page.rows.back().uid;
  }
  return page;
}

StatusOr<bool> SqliteStore::IsNameTaken(std::string_view name) const {
  auto db = readers_.Borrow();
  SBORA_ASSIGN_OR_RETURN(const auto found,
                         Collect<int64_t>(db->Query("SELECT 1 FROM resources WHERE name=?1 UNION ALL SELECT 1 FROM works "
                                                    "WHERE name=?1 UNION ALL SELECT 1 FROM reservations WHERE name=?1",
                                                    name),
                                          [](const Rows& r) { return r.Int(0); }));
  return !found.empty();
}

StatusOr<std::optional<RequestRow>> SqliteStore::FindRequest(std::string_view project,
                                                             std::string_view request_id) const {
  auto db = readers_.Borrow();
  SBORA_ASSIGN_OR_RETURN(
      auto found,
      Collect<RequestRow>(db->Query("SELECT project, request_id, hash, name, create_ms, uid FROM requests WHERE project=? "
                                    "AND request_id=?",
                                    project, request_id),
                          [](const Rows& r) {
                            return RequestRow{.project = r.Text(0),
                                              .request_id = r.Text(1),
                                              .hash = r.Text(2),
                                              .name = r.Text(3),
                                              .create_ms = r.Int(4),
                                              .uid = r.Text(5)};
                          }));
  if (found.empty()) return std::optional<RequestRow>();
  return std::optional<RequestRow>(std::move(found.front()));
}

StatusOr<HeldRegions> SqliteStore::ListRegions(std::string_view project, std::string_view base_hash) const {
  auto db = readers_.Borrow();
  SBORA_RETURN_IF_ERROR(db->Script("BEGIN"));  // one snapshot: rows above `sequence` are not among `rows`
  const auto list = [&]() -> StatusOr<HeldRegions> {
    HeldRegions held;
    SBORA_ASSIGN_OR_RETURN(
        const auto last, Collect<int64_t>(db->Query("SELECT seq FROM sqlite_sequence WHERE name='regions'"),
                                          [](const Rows& r) { return r.Int(0); }));
    if (!last.empty()) held.sequence = last.front();
    SBORA_ASSIGN_OR_RETURN(const auto unrecorded,
                           Collect<std::string>(db->Query(kUnrecorded, project), [](const Rows& r) { return r.Text(0); }));
    if (!unrecorded.empty()) held.unrecorded = unrecorded.front();
    SBORA_ASSIGN_OR_RETURN(
        held.rows, Collect<RegionRow>(db->Query(fmt::format("SELECT {} FROM regions WHERE project=? AND base_hash=? "
                                                            "ORDER BY sequence",
                                                            kRegionColumns),
                                                project, base_hash),
                                      ReadRegions));
    return held;
  };
  StatusOr<HeldRegions> held = list();
  SBORA_RETURN_IF_ERROR(db->Script("COMMIT"));
  return held;
}

StatusOr<std::optional<RegionRow>> SqliteStore::FindRegions(std::string_view adapter) const {
  auto db = readers_.Borrow();
  SBORA_ASSIGN_OR_RETURN(
      auto found, Collect<RegionRow>(db->Query(fmt::format("SELECT {} FROM regions WHERE name=?", kRegionColumns), adapter),
                                     ReadRegions));
  if (found.empty()) return std::optional<RegionRow>();
  return std::optional<RegionRow>(std::move(found.front()));
}

StatusOr<UploadRow> SqliteStore::GetUpload(std::string_view uid) const {
  auto db = readers_.Borrow();
  return One<UploadRow>(db->Query(fmt::format("SELECT {} FROM uploads WHERE uid=?", kUploadColumns), uid), ReadUpload,
                        NotFound("UPLOAD_NOT_FOUND", fmt::format("upload {} does not exist", uid)));
}

StatusOr<std::vector<UploadRow>> SqliteStore::ListExpiredUploads(int64_t now_ms, int limit) const {
  auto db = readers_.Borrow();
  return Collect<UploadRow>(db->Query(fmt::format("SELECT {} FROM uploads WHERE expire_ms<=? ORDER BY expire_ms LIMIT ?",
                                                  kUploadColumns),
                                      now_ms, limit),
                            ReadUpload);
}

StatusOr<ObjectRow> SqliteStore::GetObject(std::string_view uid) const {
  auto db = readers_.Borrow();
  return One<ObjectRow>(db->Query(fmt::format("SELECT {} FROM objects WHERE uid=?", kObjectColumns), uid), ReadObject,
                        NotFound("OBJECT_NOT_FOUND", fmt::format("object {} does not exist", uid)));
}

StatusOr<std::vector<ObjectRow>> SqliteStore::ListUnownedObjects(int64_t created_before_ms, int limit) const {
  auto db = readers_.Borrow();
  return Collect<ObjectRow>(
      db->Query(fmt::format("SELECT {} FROM objects o WHERE create_ms<? AND NOT EXISTS (SELECT 1 FROM object_owners "
                            "WHERE object_uid=o.uid) ORDER BY create_ms LIMIT ?",
                            kObjectColumns),
                created_before_ms, limit),
      ReadObject);
}

StatusOr<std::vector<std::string>> SqliteStore::ListDoomedKeys(int64_t now_ms, std::string_view after_key,
                                                               int limit) const {
  auto db = readers_.Borrow();
  return Collect<std::string>(
      db->Query("SELECT key FROM doomed_keys WHERE due_ms<=? AND key>? ORDER BY key LIMIT ?", now_ms, after_key, limit),
      [](const Rows& r) { return r.Text(0); });
}

StatusOr<std::vector<WorkerRow>> SqliteStore::ListWorkers() const {
  auto db = readers_.Borrow();
  return Collect<WorkerRow>(db->Query(fmt::format("SELECT {} FROM workers ORDER BY name", kWorkerColumns)), ReadWorker);
}

StatusOr<int> SqliteStore::SchemaVersion() const {
  auto db = readers_.Borrow();
  return ReadSchemaVersion(*db);
}

}  // namespace sbora::server
