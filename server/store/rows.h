/// Rows as the store keeps them: plain values, used by the scheduler and the services alike. Payloads are serialised
/// proto messages and opaque here. Times are wall-clock milliseconds since the epoch, for display only; 0 = not set.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/job_state.h"
#include "core/lease.h"

namespace sbora::server {

/// What a piece of work is. The numbers are stored.
enum class WorkKind { kTrain = 1, kEvaluate = 2, kGenerate = 3, kImport = 4, kMerge = 5, kExport = 6 };

enum class DeviceKind { kAuto = 0, kCpu = 1, kCuda = 2 };

/// What went wrong, in the shape of google.rpc.Status with its ErrorInfo; empty reason = nothing.
struct Failure {
  int code = 0;
  std::string reason;
  std::string message;
  bool operator==(const Failure&) const = default;
};

/// Written once, with the work; shared by the scheduler's memory, the store thread and readers.
struct WorkPayload {
  std::string spec;  // the resource as created: FineTuningJob, EvaluationJob, or the operation's metadata
  std::string task;  // sbora.worker.v1.Task with inputs, without the checkpoint group
};

/// What an etag stands for: this very resource (not a namesake) in this very generation. Never 0, which means any.
int64_t ChangeTag(std::string_view uid, int64_t generation);

/// The mutable part of a piece of work.
struct WorkRow {
  std::string uid;  // UUIDv7: sorts by creation
  WorkKind kind = WorkKind::kTrain;
  std::string project;  // the bare id, "default"
  std::string id;       // the bare resource id
  std::string name;     // full resource name, unique, for example "projects/p/fineTuningJobs/j"
  int64_t version = 0;     // rises with each write: the store's precondition
  int64_t generation = 1;  // rises with each change of state only

  core::JobState state = core::JobState::kValidating;
  core::TerminationReason reason = core::TerminationReason::kUnspecified;
  Failure failure;
  int64_t epoch = 0;             // of the newest lease
  int32_t attempt = 0;           // of the newest lease, from 1
  int32_t recovery_count = 0;    // attempts lost through no fault of the job
  int32_t failed_attempts = 0;   // counted failures since the last new checkpoint
  int32_t backoff_steps = 0;     // early ends since the last new checkpoint; drives the back-off
  int64_t sequence = 0;          // newest sequence among this work's events and metrics

  int32_t priority = 0;
  int32_t ranks = 1;
  DeviceKind device = DeviceKind::kAuto;
  int64_t max_queue_ms = 0;  // 0 = no limit, as in the next two
  int64_t max_attempt_ms = 0;
  int64_t max_total_ms = 0;
  int64_t total_ms = 0;   // age on the coordinators' monotonic clocks, as of this write; downtime does not count
  int64_t queued_ms = 0;  // the part of the present stay in the queue, as of this write

  int64_t create_ms = 0;
  int64_t start_ms = 0;  // first RUNNING
  int64_t end_ms = 0;

  std::string worker;  // of the present or last attempt, with its rank 0
  std::string resolved_device;
  int64_t checkpoint_step = -1;  // newest; -1 = none
  std::string checkpoint_files;  // serialised sbora.worker.v1.InputGroup "checkpoint" of it
  std::string committed_lease;   // uid of the lease whose commit was accepted
  std::string result;            // serialised, what the commit stored: adapter name, EvaluationResult, response, ...
  std::string request_id;

  int64_t ChangeTag() const { return server::ChangeTag(uid, generation); }
  bool operator==(const WorkRow&) const = default;
};

/// Row and payload as readers get them.
struct Work {
  WorkRow row;
  std::shared_ptr<const WorkPayload> payload;
};

/// Why a lease is being ended early. Numbers equal sbora.worker.v1.StopLease.Reason; kNone = it is not.
enum class StopReason { kNone = 0, kCancel = 1, kPause = 2, kPreempt = 3, kFenced = 4, kTimeout = 5, kGangEnded = 6 };

/// Of a gang, or of its part on one worker: all parts are of one attempt and epoch.
struct LeaseRow {
  core::LeaseId id;
  std::string work_uid;
  std::string worker;
  std::string instance_uuid;
  int32_t attempt = 0;
  std::vector<std::string> slots;
  StopReason stop = StopReason::kNone;
  int64_t acknowledged_item = 0;       // report items up to here are durable
  int64_t start_checkpoint_step = -1;  // what the attempt began from, as far as is known
  int64_t running_ms = 0;              // age as of this write
  int32_t first_rank = 0;              // its ranks are this and the next ones, one for each slot

  /// It has rank 0, which alone keeps checkpoints, shows progress and commits.
  bool Leads() const { return first_rank == 0; }
  bool operator==(const LeaseRow&) const = default;
};

struct EventRow {
  std::string work_uid;
  int64_t sequence = 0;
  int64_t time_ms = 0;
  int32_t level = 1;  // 1 info, 2 warn, 3 error
  std::string type;   // "STATE_CHANGED", "CHECKPOINT_SAVED", "LOG", ...
  std::string message;
  int32_t attempt = 0;
  bool operator==(const EventRow&) const = default;
};

/// Key (work, attempt, step): a repeated report overwrites.
struct MetricRow {
  std::string work_uid;
  int32_t attempt = 0;
  int64_t step = 0;
  int64_t sequence = 0;
  std::string payload;  // sbora.v1.MetricPoint
  bool operator==(const MetricRow&) const = default;
};

/// Key (work, step). The highest step is the newest one.
struct CheckpointRow {
  std::string work_uid;
  int64_t step = 0;
  int32_t attempt = 0;
  int64_t create_ms = 0;
  std::string files;  // sbora.worker.v1.InputGroup "checkpoint"
  std::optional<double> validation_loss;
  std::vector<std::string> object_uids;  // owned by the work while the checkpoint stays
  bool operator==(const CheckpointRow&) const = default;
};

/// Models, data sets and adapters: immutable once made.
enum class ResourceKind { kModel = 1, kDataset = 2, kAdapter = 3 };

struct ResourceRow {
  ResourceKind kind = ResourceKind::kModel;
  std::string uid;  // UUIDv7
  std::string project;
  std::string id;
  std::string name;  // full, unique
  int64_t version = 1;
  int64_t create_ms = 0;
  std::string payload;  // sbora.v1.Model, Dataset or Adapter

  int64_t ChangeTag() const { return server::ChangeTag(uid, version); }
  bool operator==(const ResourceRow&) const = default;
};

/// One request_id of a project: the same id with the same content hash returns what `uid` is; another hash is refused.
struct RequestRow {
  std::string project;
  std::string request_id;
  std::string hash;  // SHA-256 hex of the method and the request without its id
  std::string name;  // what the first call made; a namesake may be there by now
  int64_t create_ms = 0;
  std::string uid = {};  // of the work or resource of that name then
};

struct UploadRow {
  std::string project;
  std::string uid;
  int64_t size_bytes = 0;
  std::string sha256;
  int64_t received_bytes = 0;
  bool finished = false;
  std::string object_uid;  // once finished
  int64_t create_ms = 0;
  int64_t expire_ms = 0;
  bool operator==(const UploadRow&) const = default;
};

/// A sealed object of the object store. It lives while somebody owns it (object_owners).
struct ObjectRow {
  std::string project;
  std::string uid;
  std::string key;  // in the object store
  int64_t size_bytes = 0;
  std::string sha256;
  int64_t create_ms = 0;
  bool operator==(const ObjectRow&) const = default;
};

/// What one adapter, present or to come, changes of its base. Made with the job; it goes when the job fails or is cancelled,
/// and with the adapter.
struct RegionRow {
  std::string name;  // of the adapter, full
  std::string project;
  std::string base_hash;
  std::string work_uid;   // of the job
  int64_t sequence = 0;   // given by the store, rising, never twice
  std::string regions;    // core::ToJson(RegionSet)
  bool operator==(const RegionRow&) const = default;
};

enum class WorkerState { kReady = 1, kDraining = 2, kLost = 3 };

struct WorkerRow {
  std::string name;
  std::string instance_uuid;
  WorkerState state = WorkerState::kReady;
  bool drain_asked = false;  // by `workers drain`
  std::string version;
  std::string host;
  int32_t slots_total = 0;
  std::vector<std::string> gpus;
  int64_t last_seen_ms = 0;
  bool operator==(const WorkerRow&) const = default;
};

// One change each. A failed precondition fails the whole Transition that holds it.

/// With `payload` inserts (version 1); without, updates the row whose version is row.version - 1.
struct PutWork {
  WorkRow row;
  std::shared_ptr<const WorkPayload> payload;
  std::vector<std::string> uses;      // with insert: names of the models, data sets and adapters it needs
  std::vector<std::string> reserves;  // with insert: names it will make; freed when it ends
};
/// Row, payload, events, metrics, checkpoints, its ownership of objects. NOT_FOUND; FAILED_PRECONDITION JOB_NOT_TERMINAL;
/// ABORTED ETAG_MISMATCH when `tag` is not 0 and not the row's ChangeTag.
struct DeleteWork {
  std::string uid;
  int64_t tag = 0;
};
struct PutLease {
  LeaseRow row;
};
struct DeleteLease {
  std::string uid;
};
struct AddEvent {
  EventRow row;
};
struct PutMetric {
  MetricRow row;
};
/// The work takes `object_uids` over from the uploads that brought them. Checkpoints of this step or a later one go, with the ownership of their
/// objects: an attempt that writes a lower step found those unusable and began from an earlier one.
struct PutCheckpoint {
  CheckpointRow row;
};
/// Drops all but the newest `keep` checkpoints and the work's ownership of their objects.
struct PruneCheckpoints {
  std::string work_uid;
  int keep = 2;
};
struct PutWorker {
  WorkerRow row;
};
struct DeleteWorker {
  std::string name;
};
/// ALREADY_EXISTS when the name is taken, or reserved by work other than `by_work`.
struct InsertResource {
  ResourceRow row;
  std::string by_work;
};
/// FAILED_PRECONDITION <KIND>_IN_USE while work that has not ended uses it; NOT_FOUND; ABORTED ETAG_MISMATCH when
/// `tag` is not 0 and not the row's ChangeTag. Its ownership of objects ends.
struct DeleteResource {
  std::string name;
  int64_t tag = 0;
};
/// ALREADY_EXISTS REQUEST_ID_REUSED when the id is there with another hash.
struct InsertRequest {
  RequestRow row;
};
/// Forgets the requests that are older: a repeat of them is a new request.
struct PruneRequests {
  int64_t created_before_ms = 0;
};
/// A finished row finishes the one that is there: FAILED_PRECONDITION UPLOAD_CLOSED when it is finished already or gone.
struct PutUpload {
  UploadRow row;
};
struct DeleteUpload {
  std::string uid;
};
struct InsertObject {
  ObjectRow row;
};
/// `owner` is a resource name, an upload uid or a work uid. NOT_FOUND when the object is not there. A resource takes the
/// object over from the upload that brought it; work may fail, and its upload be used again.
struct AddObjectOwner {
  std::string object_uid;
  std::string owner;
};
struct RemoveObjectOwner {
  std::string object_uid;  // empty: all of the owner's
  std::string owner;
};
/// The row of an object that nobody owns becomes a doomed key; owned or gone, nothing happens.
struct DeleteObject {
  std::string uid;
};
/// The bytes under `key` will be deleted from `due_ms` on, unless InsertObject names the key before. Of a key that is
/// doomed already the later time counts; of one that an object has, nothing happens.
struct DoomKey {
  std::string project;
  std::string key;
  int64_t due_ms = 0;
};
/// Its bytes are gone.
struct ForgetKey {
  std::string key;
};

/// Reserves regions, with the job that will make the adapter. They were drawn apart from `avoid` (adapters' names) or, with
/// `avoid_all`, from everybody of the project on the base, as they stood at sequence `seen`. ABORTED REGIONS_MOVED when
/// one of those has come since and meets them: look again and draw anew.
struct PutRegions {
  RegionRow row;  // its sequence is not used
  std::vector<std::string> avoid;
  bool avoid_all = false;
  int64_t seen = 0;
};

using Mutation = std::variant<PutWork, DeleteWork, PutLease, DeleteLease, AddEvent, PutMetric, PutCheckpoint,
                              PruneCheckpoints, PutWorker, DeleteWorker, InsertResource, DeleteResource, InsertRequest, PruneRequests, PutUpload, DeleteUpload, InsertObject,
                              AddObjectOwner, RemoveObjectOwner, DeleteObject, DoomKey, ForgetKey, PutRegions>;

std::string_view WorkKindName(WorkKind kind);          // "train", ...
std::string_view DeviceKindName(DeviceKind kind);      // "cpu", ...
std::string_view ResourceKindName(ResourceKind kind);  // "model", ...

}  // namespace sbora::server
