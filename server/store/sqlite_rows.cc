#include "server/store/sqlite_rows.h"

#include <utility>

namespace sbora::server {
namespace {

WorkRow ReadWorkRow(const Rows& r) {
  WorkRow w;
  int c = 0;
  w.uid = r.Text(c++);
  w.kind = static_cast<WorkKind>(r.Int32(c++));
  w.project = r.Text(c++);
  w.id = r.Text(c++);
  w.name = r.Text(c++);
  w.version = r.Int(c++);
  w.state = static_cast<core::JobState>(r.Int32(c++));
  w.reason = static_cast<core::TerminationReason>(r.Int32(c++));
  w.failure.code = r.Int32(c++);
  w.failure.reason = r.Text(c++);
  w.failure.message = r.Text(c++);
  w.epoch = r.Int(c++);
  w.attempt = r.Int32(c++);
  w.recovery_count = r.Int32(c++);
  w.failed_attempts = r.Int32(c++);
  w.backoff_steps = r.Int32(c++);
  w.sequence = r.Int(c++);
  w.priority = r.Int32(c++);
  w.ranks = r.Int32(c++);
  w.device = static_cast<DeviceKind>(r.Int32(c++));
  w.max_queue_ms = r.Int(c++);
  w.max_attempt_ms = r.Int(c++);
  w.max_total_ms = r.Int(c++);
  w.total_ms = r.Int(c++);
  w.queued_ms = r.Int(c++);
  w.create_ms = r.Int(c++);
  w.start_ms = r.Int(c++);
  w.end_ms = r.Int(c++);
  w.worker = r.Text(c++);
  w.resolved_device = r.Text(c++);
  w.checkpoint_step = r.Int(c++);
  w.checkpoint_files = r.Text(c++);
  w.committed_lease = r.Text(c++);
  w.result = r.Text(c++);
  w.request_id = r.Text(c++);
  w.generation = r.Int(c++);
  return w;
}

}  // namespace

Work ReadWork(const Rows& rows) {
  WorkPayload payload;
  payload.spec = rows.Text(36);
  payload.task = rows.Text(37);
  // shared: the scheduler, leases being handed out and readers hold the same bytes.
  return Work{ReadWorkRow(rows), std::make_shared<const WorkPayload>(std::move(payload))};
}

Status InsertWorkRow(SqliteDb& db, const WorkRow& w) {
  return db
      .Run("INSERT INTO works VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)", w.uid,
           static_cast<int>(w.kind), w.project, w.id, w.name, w.version, static_cast<int>(w.state),
           static_cast<int>(w.reason), w.failure.code, w.failure.reason, w.failure.message, w.epoch, w.attempt,
           w.recovery_count, w.failed_attempts, w.backoff_steps, w.sequence, w.priority, w.ranks,
           static_cast<int>(w.device), w.max_queue_ms, w.max_attempt_ms, w.max_total_ms, w.total_ms, w.queued_ms,
           w.create_ms, w.start_ms, w.end_ms, w.worker, w.resolved_device, w.checkpoint_step, Blob{w.checkpoint_files},
           w.committed_lease, Blob{w.result}, w.request_id, w.generation)
      .status();
}

StatusOr<int> UpdateWorkRow(SqliteDb& db, const WorkRow& w) {
  return db.Run(
      "UPDATE works SET version=?, state=?, reason=?, failure_code=?, failure_reason=?, failure_message=?, epoch=?, "
      "attempt=?, recovery_count=?, failed_attempts=?, backoff_steps=?, sequence=?, total_ms=?, queued_ms=?, "
      "start_ms=?, end_ms=?, worker=?, resolved_device=?, checkpoint_step=?, checkpoint_files=?, committed_lease=?, "
      "result=?, generation=? WHERE uid=? AND version=? AND epoch<=? AND state<9",
      w.version, static_cast<int>(w.state), static_cast<int>(w.reason), w.failure.code, w.failure.reason,
      w.failure.message, w.epoch, w.attempt, w.recovery_count, w.failed_attempts, w.backoff_steps, w.sequence,
      w.total_ms, w.queued_ms, w.start_ms, w.end_ms, w.worker, w.resolved_device, w.checkpoint_step,
      Blob{w.checkpoint_files}, w.committed_lease, Blob{w.result}, w.generation, w.uid, w.version - 1, w.epoch);
}

LeaseRow ReadLease(const Rows& r) {
  LeaseRow lease;
  lease.id = {.uid = r.Text(0), .epoch = r.Int(1)};
  lease.work_uid = r.Text(2);
  lease.worker = r.Text(3);
  lease.instance_uuid = r.Text(4);
  lease.attempt = r.Int32(5);
  lease.slots = SplitLines(r.Text(6));
  lease.stop = static_cast<StopReason>(r.Int32(7));
  lease.acknowledged_item = r.Int(8);
  lease.start_checkpoint_step = r.Int(9);
  lease.running_ms = r.Int(10);
  lease.first_rank = r.Int32(11);
  return lease;
}

ResourceRow ReadResource(const Rows& r) {
  return ResourceRow{.kind = static_cast<ResourceKind>(r.Int32(0)),
                     .uid = r.Text(1),
                     .project = r.Text(2),
                     .id = r.Text(3),
                     .name = r.Text(4),
                     .version = r.Int(5),
                     .create_ms = r.Int(6),
                     .payload = r.Text(7)};
}

UploadRow ReadUpload(const Rows& r) {
  return UploadRow{.project = r.Text(0),
                   .uid = r.Text(1),
                   .size_bytes = r.Int(2),
                   .sha256 = r.Text(3),
                   .received_bytes = r.Int(4),
                   .finished = r.Int(5) != 0,
                   .object_uid = r.Text(6),
                   .create_ms = r.Int(7),
                   .expire_ms = r.Int(8)};
}

ObjectRow ReadObject(const Rows& r) {
  return ObjectRow{.project = r.Text(0),
                   .uid = r.Text(1),
                   .key = r.Text(2),
                   .size_bytes = r.Int(3),
                   .sha256 = r.Text(4),
                   .create_ms = r.Int(5)};
}

WorkerRow ReadWorker(const Rows& r) {
  return WorkerRow{.name = r.Text(0),
                   .instance_uuid = r.Text(1),
                   .state = static_cast<WorkerState>(r.Int32(2)),
                   .drain_asked = r.Int(3) != 0,
                   .version = r.Text(4),
                   .host = r.Text(5),
                   .slots_total = r.Int32(6),
                   .gpus = SplitLines(r.Text(7)),
                   .last_seen_ms = r.Int(8)};
}

RegionRow ReadRegions(const Rows& r) {
  return RegionRow{.name = r.Text(0),
                   .project = r.Text(1),
                   .base_hash = r.Text(2),
                   .work_uid = r.Text(3),
                   .sequence = r.Int(4),
                   .regions = r.Text(5)};
}

std::string JoinLines(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::vector<std::string> SplitLines(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return lines;
}

}  // namespace sbora::server
