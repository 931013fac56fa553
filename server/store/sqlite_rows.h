/// Column lists and the one place where a row is read from or bound to them. Private to server/store.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/store/rows.h"
#include "server/store/sqlite_db.h"

namespace sbora::server {

inline constexpr std::string_view kWorkColumns =
    "w.uid, w.kind, w.project, w.id, w.name, w.version, w.state, w.reason, w.failure_code, w.failure_reason, "
    "w.failure_message, w.epoch, w.attempt, w.recovery_count, w.failed_attempts, w.backoff_steps, w.sequence, "
    "w.priority, w.ranks, w.device, w.max_queue_ms, w.max_attempt_ms, w.max_total_ms, w.total_ms, w.queued_ms, "
    "w.create_ms, w.start_ms, w.end_ms, w.worker, w.resolved_device, w.checkpoint_step, w.checkpoint_files, "
    "w.committed_lease, w.result, w.request_id, w.generation, p.spec, p.task";

Work ReadWork(const Rows& rows);
Status InsertWorkRow(SqliteDb& db, const WorkRow& row);
/// Updates the row of version row.version - 1; the number of rows changed, 0 or 1.
StatusOr<int> UpdateWorkRow(SqliteDb& db, const WorkRow& row);

inline constexpr std::string_view kLeaseColumns =
    "uid, epoch, work_uid, worker, instance_uuid, attempt, slots, stop, acknowledged_item, start_checkpoint_step, "
    "running_ms, first_rank";
LeaseRow ReadLease(const Rows& rows);

inline constexpr std::string_view kResourceColumns = "kind, uid, project, id, name, version, create_ms, payload";
ResourceRow ReadResource(const Rows& rows);

inline constexpr std::string_view kUploadColumns =
    "project, uid, size_bytes, sha256, received_bytes, finished, object_uid, create_ms, expire_ms";
UploadRow ReadUpload(const Rows& rows);

inline constexpr std::string_view kObjectColumns = "project, uid, key, size_bytes, sha256, create_ms";
ObjectRow ReadObject(const Rows& rows);

inline constexpr std::string_view kWorkerColumns =
    "name, instance_uuid, state, drain_asked, version, host, slots_total, gpus, last_seen_ms";
WorkerRow ReadWorker(const Rows& rows);

inline constexpr std::string_view kRegionColumns = "name, project, base_hash, work_uid, sequence, regions";
RegionRow ReadRegions(const Rows& rows);

/// Short lists without newlines inside an element, one element in a line.
std::string JoinLines(const std::vector<std::string>& lines);
std::vector<std::string> SplitLines(std::string_view text);

}  // namespace sbora::server
