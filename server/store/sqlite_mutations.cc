#include "server/store/sqlite_mutations.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "core/region.h"
#include "server/store/sqlite_rows.h"

namespace sbora::server {
namespace {

std::string Upper(std::string_view text) {
  std::string upper(text);
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
  return upper;
}

/// A statement that must change exactly one row.
Status ExpectOne(StatusOr<int> changed, Status otherwise) {
  if (!changed.ok()) return changed.status();
  return *changed == 1 ? OkStatus() : std::move(otherwise);
}

template <typename... Args>
StatusOr<bool> Exists(SqliteDb& db, std::string_view sql, const Args&... args) {
  Rows rows = db.Query(sql, args...);
  const bool found = rows.Next();
  if (!rows.status().ok()) return rows.status();
  return found;
}

StatusOr<bool> NameTaken(SqliteDb& db, const std::string& name, const std::string& by_work) {
  return Exists(db,
                "SELECT 1 FROM resources WHERE name=?1 UNION ALL SELECT 1 FROM works WHERE name=?1 UNION ALL "
                "SELECT 1 FROM reservations WHERE name=?1 AND work_uid<>?2",
                name, by_work);
}

Status AddProject(SqliteDb& db, const std::string& project) {
  return db.Run("INSERT OR IGNORE INTO projects VALUES (?)", project).status();
}

Status InsertWork(SqliteDb& db, const PutWork& put) {
  const WorkRow& row = put.row;
  SBORA_RETURN_IF_ERROR(AddProject(db, row.project));
  SBORA_ASSIGN_OR_RETURN(const bool taken, NameTaken(db, row.name, ""));
  if (taken) return AlreadyExists("NAME_TAKEN", fmt::format("{} exists; choose another id", row.name));
  for (const std::string& name : put.uses) {
    SBORA_ASSIGN_OR_RETURN(const bool there, Exists(db, "SELECT 1 FROM resources WHERE name=?", name));
    if (!there) return NotFound("RESOURCE_NOT_FOUND", fmt::format("{} does not exist", name)).WithMetadata("name", name);
  }
  SBORA_RETURN_IF_ERROR(InsertWorkRow(db, row));
  SBORA_RETURN_IF_ERROR(db.Run("INSERT INTO work_payloads VALUES (?,?,?,?)", row.uid, row.project,
                               Blob{put.payload->spec}, Blob{put.payload->task})
                            .status());
  for (const std::string& name : put.uses) {
    SBORA_RETURN_IF_ERROR(
        db.Run("INSERT OR IGNORE INTO work_uses VALUES (?,?,?)", name, row.uid, row.project).status());
  }
  for (const std::string& name : put.reserves) {
    SBORA_ASSIGN_OR_RETURN(const bool used, NameTaken(db, name, ""));
    if (used) {
      return AlreadyExists("NAME_TAKEN", fmt::format("{} exists or is being made; choose another id", name))
          .WithMetadata("name", name);
    }
    SBORA_RETURN_IF_ERROR(db.Run("INSERT INTO reservations VALUES (?,?,?)", name, row.uid, row.project).status());
  }
  return OkStatus();
}

Status Apply(SqliteDb& db, const PutWork& put) {
  if (put.payload != nullptr) return InsertWork(db, put);
  SBORA_RETURN_IF_ERROR(ExpectOne(
      UpdateWorkRow(db, put.row),
      Aborted("WORK_MOVED_ON", fmt::format("{} is not at version {}, or has ended", put.row.name, put.row.version - 1))));
  if (!core::IsTerminal(put.row.state)) return OkStatus();
  SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM work_uses WHERE work_uid=?", put.row.uid).status());
  SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM reservations WHERE work_uid=?", put.row.uid).status());
  // A job that succeeded hands its regions on to its adapter.
  if (put.row.kind == WorkKind::kTrain && put.row.state != core::JobState::kSucceeded) {
    SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM regions WHERE work_uid=?", put.row.uid).status());
  }
  // What an import read is of no more use: the model owns the files it became.
  if (put.row.kind != WorkKind::kImport) return OkStatus();
  return db.Run("DELETE FROM object_owners WHERE owner=?", put.row.uid).status();
}

Status EtagMismatch(std::string_view what) {
  return Aborted("ETAG_MISMATCH", fmt::format("{} is not what the etag was read from; read it again", what));
}

Status Apply(SqliteDb& db, const DeleteWork& gone) {
  int64_t generation = 0;
  int state = 0;
  bool leased = false;
  {
    Rows rows = db.Query(
        "SELECT generation, state, EXISTS (SELECT 1 FROM leases WHERE work_uid=?1) FROM works WHERE uid=?1", gone.uid);
    if (rows.Next()) {
      generation = rows.Int(0);
      state = rows.Int32(1);
      leased = rows.Int(2) != 0;
    }
    SBORA_RETURN_IF_ERROR(rows.status());
  }
  if (generation == 0) return NotFound("WORK_NOT_FOUND", fmt::format("work {} does not exist", gone.uid));
  if (gone.tag != 0 && gone.tag != ChangeTag(gone.uid, generation)) return EtagMismatch("the job");
  if (leased || !core::IsTerminal(static_cast<core::JobState>(state))) {
    return FailedPrecondition("JOB_NOT_TERMINAL",
                              leased ? "its worker is still being stopped; try again in a minute"
                                     : fmt::format("it is {}; cancel it first",
                                                   core::JobStateName(static_cast<core::JobState>(state))));
  }
  SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM object_owners WHERE owner=?", gone.uid).status());
  return db.Run("DELETE FROM works WHERE uid=?", gone.uid).status();
}

Status Apply(SqliteDb& db, const PutLease& put) {
  const LeaseRow& row = put.row;
  return ExpectOne(
      db.Run("INSERT INTO leases SELECT ?,uid,project,?,?,?,?,?,?,?,?,?,? FROM works WHERE uid=? "
             "ON CONFLICT (uid) DO UPDATE SET stop=excluded.stop, acknowledged_item=excluded.acknowledged_item, "
             "start_checkpoint_step=excluded.start_checkpoint_step, running_ms=excluded.running_ms",
             row.id.uid, row.id.epoch, row.worker, row.instance_uuid, row.attempt, JoinLines(row.slots),
             static_cast<int>(row.stop), row.acknowledged_item, row.start_checkpoint_step, row.running_ms,
             row.first_rank, row.work_uid),
      NotFound("WORK_NOT_FOUND", fmt::format("lease {} is of work {}, which does not exist", row.id.uid, row.work_uid)));
}

Status Apply(SqliteDb& db, const DeleteLease& gone) {
  return ExpectOne(db.Run("DELETE FROM leases WHERE uid=?", gone.uid),
                   NotFound("LEASE_NOT_FOUND", fmt::format("lease {} does not exist", gone.uid)));
}

Status Apply(SqliteDb& db, const AddEvent& add) {
  const EventRow& row = add.row;
  return ExpectOne(db.Run("INSERT INTO events SELECT uid,?,project,?,?,?,?,? FROM works WHERE uid=?", row.sequence,
                          row.time_ms, row.level, row.type, row.message, row.attempt, row.work_uid),
                   NotFound("WORK_NOT_FOUND", fmt::format("work {} does not exist", row.work_uid)));
}

Status Apply(SqliteDb& db, const PutMetric& put) {
  const MetricRow& row = put.row;
  return ExpectOne(db.Run("INSERT OR REPLACE INTO metrics SELECT uid,?,?,?,project,? FROM works WHERE uid=?", row.step,
                          row.attempt, row.sequence, Blob{row.payload}, row.work_uid),
                   NotFound("WORK_NOT_FOUND", fmt::format("work {} does not exist", row.work_uid)));
}

/// Somebody who stays has become an owner: the upload that brought the object must not keep it alive for its 24 h.
Status ReleaseUpload(SqliteDb& db, const std::string& object_uid) {
  return db
      .Run("DELETE FROM object_owners WHERE object_uid=? AND EXISTS (SELECT 1 FROM uploads WHERE uid=object_owners.owner)",
           object_uid)
      .status();
}

using OldCheckpoints = std::vector<std::pair<int64_t, std::vector<std::string>>>;  // step, object uids

StatusOr<OldCheckpoints> ReadOld(Rows rows) {
  OldCheckpoints old;
  while (rows.Next()) old.emplace_back(rows.Int(0), SplitLines(rows.Text(1)));
  if (!rows.status().ok()) return rows.status();
  return old;
}

Status DropCheckpoints(SqliteDb& db, const std::string& work_uid, const OldCheckpoints& old) {
  for (const auto& [step, objects] : old) {
    for (const std::string& uid : objects) {
      SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM object_owners WHERE object_uid=? AND owner=?", uid, work_uid).status());
    }
    SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM checkpoints WHERE work_uid=? AND step=?", work_uid, step).status());
  }
  return OkStatus();
}

Status Apply(SqliteDb& db, const PutCheckpoint& put) {
  const CheckpointRow& row = put.row;
  SBORA_ASSIGN_OR_RETURN(
      const OldCheckpoints superseded,
      ReadOld(db.Query("SELECT step, objects FROM checkpoints WHERE work_uid=? AND step>=?", row.work_uid, row.step)));
  SBORA_RETURN_IF_ERROR(DropCheckpoints(db, row.work_uid, superseded));
  for (const std::string& uid : row.object_uids) {
    // An object that is not there makes a checkpoint that fails its check when read, not a store that parts from memory.
    SBORA_RETURN_IF_ERROR(
        db.Run("INSERT OR IGNORE INTO object_owners SELECT uid,?,project FROM objects WHERE uid=?", row.work_uid, uid)
            .status());
    SBORA_RETURN_IF_ERROR(ReleaseUpload(db, uid));
  }
  return ExpectOne(db.Run("INSERT INTO checkpoints SELECT uid,?,project,?,?,?,?,? FROM works WHERE uid=?", row.step,
                          row.attempt, row.create_ms, Blob{row.files}, row.validation_loss, JoinLines(row.object_uids),
                          row.work_uid),
                   NotFound("WORK_NOT_FOUND", fmt::format("work {} does not exist", row.work_uid)));
}

Status Apply(SqliteDb& db, const PruneCheckpoints& prune) {
  SBORA_ASSIGN_OR_RETURN(
      const OldCheckpoints old,
      ReadOld(db.Query("SELECT step, objects FROM checkpoints WHERE work_uid=? ORDER BY step DESC LIMIT -1 OFFSET ?",
                       prune.work_uid, prune.keep)));
  return DropCheckpoints(db, prune.work_uid, old);
}

Status Apply(SqliteDb& db, const PutWorker& put) {
  const WorkerRow& row = put.row;
  return db
      .Run("INSERT OR REPLACE INTO workers VALUES (?,?,?,?,?,?,?,?,?)", row.name, row.instance_uuid,
           static_cast<int>(row.state), row.drain_asked ? 1 : 0, row.version, row.host, row.slots_total,
           JoinLines(row.gpus), row.last_seen_ms)
      .status();
}

Status Apply(SqliteDb& db, const DeleteWorker& gone) {
  return db.Run("DELETE FROM workers WHERE name=?", gone.name).status();
}

Status Apply(SqliteDb& db, const InsertResource& insert) {
  const ResourceRow& row = insert.row;
  SBORA_RETURN_IF_ERROR(AddProject(db, row.project));
  SBORA_ASSIGN_OR_RETURN(const bool taken, NameTaken(db, row.name, insert.by_work));
  if (taken) {
    return AlreadyExists(fmt::format("{}_EXISTS", Upper(ResourceKindName(row.kind))),
                         fmt::format("{} exists or is being made; choose another id", row.name))
        .WithMetadata("name", row.name);
  }
  return db
      .Run("INSERT INTO resources (kind, uid, project, id, name, version, create_ms, payload) VALUES (?,?,?,?,?,?,?,?)",
           static_cast<int>(row.kind), row.uid, row.project, row.id, row.name, row.version, row.create_ms,
           Blob{row.payload})
      .status();
}

Status Apply(SqliteDb& db, const DeleteResource& gone) {
  ResourceKind kind{};
  int64_t tag = 0;
  {
    Rows rows = db.Query("SELECT kind, uid, version FROM resources WHERE name=?", gone.name);
    if (rows.Next()) {
      kind = static_cast<ResourceKind>(rows.Int32(0));
      tag = ChangeTag(rows.Text(1), rows.Int(2));
    }
    SBORA_RETURN_IF_ERROR(rows.status());
  }
  if (tag == 0) return NotFound("RESOURCE_NOT_FOUND", fmt::format("{} does not exist", gone.name));
  if (gone.tag != 0 && gone.tag != tag) return EtagMismatch(gone.name);
  std::string user;
  {
    Rows rows = db.Query("SELECT w.name FROM work_uses u JOIN works w ON w.uid=u.work_uid WHERE u.name=? LIMIT 1",
                         gone.name);
    if (rows.Next()) user = rows.Text(0);
    SBORA_RETURN_IF_ERROR(rows.status());
  }
  if (!user.empty()) {
    return FailedPrecondition(fmt::format("{}_IN_USE", Upper(ResourceKindName(kind))),
                              fmt::format("{} uses {}; wait for it or cancel it", user, gone.name))
        .WithMetadata("user", user);
  }
  SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM object_owners WHERE owner=?", gone.name).status());
  SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM regions WHERE name=?", gone.name).status());
  return db.Run("DELETE FROM resources WHERE name=?", gone.name).status();
}

Status Apply(SqliteDb& db, const InsertRequest& insert) {
  const RequestRow& row = insert.row;
  return ExpectOne(db.Run("INSERT INTO requests VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING", row.project, row.request_id,
                          row.hash, row.name, row.create_ms, row.uid),
                   AlreadyExists("REQUEST_ID_REUSED",
                                 fmt::format("request_id {} was used before; use a new one", row.request_id)));
}

Status Apply(SqliteDb& db, const PruneRequests& prune) {
  return db.Run("DELETE FROM requests WHERE create_ms<?", prune.created_before_ms).status();
}

Status Apply(SqliteDb& db, const PutUpload& put) {
  const UploadRow& row = put.row;
  if (row.finished) {
    // The sweep may have taken it away meanwhile: then its object must not come to be.
    return ExpectOne(db.Run("UPDATE uploads SET received_bytes=?, finished=1, object_uid=? WHERE uid=? AND finished=0",
                            row.received_bytes, row.object_uid, row.uid),
                     FailedPrecondition("UPLOAD_CLOSED", fmt::format("upload {} is finished or has expired", row.uid)));
  }
  return db
      .Run("INSERT OR REPLACE INTO uploads VALUES (?,?,?,?,?,?,?,?,?)", row.uid, row.project, row.size_bytes, row.sha256,
           row.received_bytes, row.finished ? 1 : 0, row.object_uid, row.create_ms, row.expire_ms)
      .status();
}

Status Apply(SqliteDb& db, const DeleteUpload& gone) {
  SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM object_owners WHERE owner=?", gone.uid).status());
  return ExpectOne(db.Run("DELETE FROM uploads WHERE uid=?", gone.uid),
                   NotFound("UPLOAD_NOT_FOUND", fmt::format("upload {} does not exist", gone.uid)));
}

Status Apply(SqliteDb& db, const InsertObject& insert) {
  const ObjectRow& row = insert.row;
  SBORA_RETURN_IF_ERROR(db.Run("DELETE FROM doomed_keys WHERE key=?", row.key).status());
  return ExpectOne(db.Run("INSERT INTO objects VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING", row.uid, row.project,
                          row.key, row.size_bytes, row.sha256, row.create_ms),
                   AlreadyExists("OBJECT_EXISTS", fmt::format("object {} exists", row.uid)));
}

Status Apply(SqliteDb& db, const AddObjectOwner& add) {
  SBORA_ASSIGN_OR_RETURN(const bool there, Exists(db, "SELECT 1 FROM objects WHERE uid=?", add.object_uid));
  if (!there) return NotFound("OBJECT_NOT_FOUND", fmt::format("object {} does not exist", add.object_uid));
  SBORA_RETURN_IF_ERROR(db.Run("INSERT OR IGNORE INTO object_owners SELECT uid,?,project FROM objects WHERE uid=?",
                               add.owner, add.object_uid)
                            .status());
  SBORA_ASSIGN_OR_RETURN(const bool by_resource, Exists(db, "SELECT 1 FROM resources WHERE name=?", add.owner));
  return by_resource ? ReleaseUpload(db, add.object_uid) : OkStatus();
}

Status Apply(SqliteDb& db, const RemoveObjectOwner& remove) {
  return db
      .Run("DELETE FROM object_owners WHERE owner=?1 AND (?2='' OR object_uid=?2)", remove.owner, remove.object_uid)
      .status();
}

/// The judge of disjointness: this runs inside the one transaction that accepts the job.
Status Apply(SqliteDb& db, const PutRegions& put) {
  std::vector<core::RegionHolder> pair(2);
  pair[0].name = put.row.name;
  SBORA_ASSIGN_OR_RETURN(pair[0].regions, core::ParseRegions(put.row.regions));
  std::vector<RegionRow> newer;
  if (put.avoid_all || !put.avoid.empty()) {
    Rows rows = db.Query("SELECT name, project, base_hash, work_uid, sequence, regions FROM regions WHERE project=? AND "
                         "base_hash=? AND sequence>? ORDER BY sequence",
                         put.row.project, put.row.base_hash, put.seen);
    while (rows.Next()) newer.push_back(ReadRegions(rows));
    SBORA_RETURN_IF_ERROR(rows.status());
  }
  for (const RegionRow& row : newer) {
    if (!put.avoid_all && std::find(put.avoid.begin(), put.avoid.end(), row.name) == put.avoid.end()) continue;
    pair[1].name = row.name;
    SBORA_ASSIGN_OR_RETURN(pair[1].regions, core::ParseRegions(row.regions));
    if (core::CheckMergesExactly(pair).ok()) continue;
    return Aborted("REGIONS_MOVED",
                   fmt::format("{} has taken some of the regions drawn for {}; submit again", row.name, put.row.name));
  }
  return db
      .Run("INSERT INTO regions (name, project, base_hash, work_uid, regions) VALUES (?,?,?,?,?)", put.row.name,
           put.row.project, put.row.base_hash, put.row.work_uid, put.row.regions)
      .status();
}

Status Apply(SqliteDb& db, const DeleteObject& gone) {
  SBORA_RETURN_IF_ERROR(db.Run("INSERT OR REPLACE INTO doomed_keys SELECT key,project,0 FROM objects WHERE uid=?1 AND NOT "
                               "EXISTS (SELECT 1 FROM object_owners WHERE object_uid=?1)",
                               gone.uid)
                            .status());
  return db
      .Run("DELETE FROM objects WHERE uid=?1 AND NOT EXISTS (SELECT 1 FROM object_owners WHERE object_uid=?1)", gone.uid)
      .status();
}

Status Apply(SqliteDb& db, const DoomKey& doom) {
  return db
      .Run("INSERT INTO doomed_keys SELECT ?1,?2,?3 WHERE NOT EXISTS (SELECT 1 FROM objects WHERE key=?1) "
           "ON CONFLICT (key) DO UPDATE SET due_ms=max(due_ms, excluded.due_ms)",
           doom.key, doom.project, doom.due_ms)
      .status();
}

Status Apply(SqliteDb& db, const ForgetKey& forget) {
  return db.Run("DELETE FROM doomed_keys WHERE key=?", forget.key).status();
}

}  // namespace

Status ApplyMutation(SqliteDb& db, const Mutation& mutation) {
  return std::visit([&db](const auto& change) { return Apply(db, change); }, mutation);
}

}  // namespace sbora::server
