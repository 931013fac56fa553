/// What goes into the scheduler and comes out: plain values, no gRPC, no I/O.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "core/job_state.h"
#include "core/lease.h"
#include "server/store/store.h"

namespace sbora::server {

struct SchedulerConfig {
  core::LeaseTiming timing;
  Duration backoff = std::chrono::seconds(10);
  Duration backoff_max = std::chrono::seconds(360);
  int max_attempts = 3;
  /// How long a Synchronize call may be held: with nothing to run, and while the worker runs something.
  Duration poll_idle = std::chrono::seconds(5);
  Duration poll_busy = std::chrono::seconds(1);

  /// InvalidArgument BAD_TIMING unless 0 < renew < self_fence, 2 * self_fence <= lease <= redispatch and the rest is
  /// positive.
  Status Check() const;
};

/// An answer to an agent is one message of at most 4 MiB: a larger task would never arrive.
inline constexpr size_t kMaxTaskBytes = 3 << 20;

struct SubmitRequest {
  WorkKind kind = WorkKind::kTrain;
  std::string project;
  std::string id;    // bare resource id
  std::string name;  // full
  std::string uid;   // UUIDv7 made by the caller (objects may already be keyed by it); empty: made here
  /// False: VALIDATING until MarkValidated or FailValidation. True: straight to QUEUED.
  bool validated = false;
  int32_t priority = 0;
  int32_t ranks = 1;
  DeviceKind device = DeviceKind::kAuto;
  int64_t max_queue_ms = 0;
  int64_t max_attempt_ms = 0;
  int64_t max_total_ms = 0;
  WorkPayload payload;
  std::vector<std::string> uses;      // full names this needs; they cannot be deleted until it ends
  std::vector<std::string> reserves;  // full names its end will make (adapter, model); taken from now on
  std::string request_id;             // may be empty
  std::string request_hash;           // SHA-256 hex of the request without its id
  std::vector<Mutation> extra;        // same transaction, for example AddObjectOwner{upload object, uid}
};

struct SlotInfo {
  std::string id;
  DeviceKind device = DeviceKind::kCpu;
};

/// A report item as taken from the wire; the scheduler gives events and metrics their sequence.
struct CheckpointItem {
  int64_t step = 0;
  std::string files;  // serialised sbora.worker.v1.InputGroup named "checkpoint"
  std::optional<double> validation_loss;
  std::vector<std::string> object_uids;  // the work becomes their owner
};
struct MetricItem {
  int64_t step = 0;
  std::string payload;  // sbora.v1.MetricPoint with the lease's attempt
};
struct EventItem {
  int64_t time_ms = 0;
  int32_t level = 1;
  std::string type;
  std::string message;
};
struct ReportItem {
  int64_t sequence = 0;  // from 1 in each lease
  std::variant<CheckpointItem, MetricItem, EventItem> item;
};

enum class AttemptPhase { kPreparing, kRunning, kStopping, kEnded, kCommitting };

struct AttemptReport {
  core::LeaseId lease;
  AttemptPhase phase = AttemptPhase::kPreparing;
  std::string progress;  // serialised sbora.v1.JobProgress (Running), or with `phase` filled (Preparing); may be empty
  std::string device;    // what AUTO became (Running)
  core::TerminationReason reason = core::TerminationReason::kUnspecified;  // Ended
  Failure failure;                                                         // Ended
  std::vector<ReportItem> items;
  bool ready = false;      // of a gang over several workers: its ranks may start
  std::string rendezvous;  // of its part with rank 0, once ready: where rank 0 waits for the others
};

struct SyncRequest {
  std::string worker;
  std::string instance_uuid;
  std::string version;
  std::string host;
  std::vector<SlotInfo> slots;
  std::vector<std::string> gpus;  // names, of all in the machine
  bool draining = false;
  int64_t acknowledged_sequence = 0;
  std::vector<AttemptReport> attempts;
  std::string gang_address;  // where ranks on other workers reach those of this one; empty: it takes no part in such gangs
};

struct StartDecision {
  core::LeaseId lease;
  std::string work_uid;
  std::string resource;  // work name
  std::string project;   // bare id
  int32_t attempt = 0;
  std::vector<std::string> slots;
  std::shared_ptr<const WorkPayload> payload;  // `task` goes to the agent, with ...
  int64_t checkpoint_step = -1;                // ... the newest checkpoint, if any,
  std::string checkpoint_files;                // as input group "checkpoint" (serialised InputGroup), and
  std::string older_checkpoint_files;          // the one before it, should that one be damaged
  int32_t first_rank = 0;                      // of a gang over several workers: its ranks are this and the next ones, ...
  int32_t world_size = 0;                      // ... of so many; both 0 for a gang on one worker
};
struct RenewDecision {
  core::LeaseId lease;
  int64_t acknowledged_item = 0;
  std::string rendezvous;  // of a gang over several workers, once all its parts are ready
};
struct StopDecision {
  core::LeaseId lease;
  StopReason reason = StopReason::kNone;
};
struct SyncResponse {
  int64_t sequence = 0;
  std::vector<StartDecision> start;
  std::vector<RenewDecision> renewed;
  std::vector<StopDecision> stop;
  Duration next_call_after{};
  bool drain = false;
};

/// The services check size and hash of the outputs and put the manifest before they call.
struct CommitRequest {
  std::string worker;
  std::string instance_uuid;
  core::LeaseId lease;
  std::string result;                // becomes WorkRow.result
  std::vector<Mutation> resources;   // same transaction: InsertResource (by_work = the work), AddObjectOwner, ...
  std::vector<ReportItem> items;
};

/// For /metrics. Counts by the numbers of the enums.
struct SchedulerSnapshot {
  std::vector<std::pair<core::JobState, int>> works_by_state;  // not terminal
  int workers_ready = 0;
  int workers_draining = 0;
  int workers_lost = 0;
  int slots_total = 0;
  int slots_used = 0;
  int leases = 0;
  double oldest_queued_seconds = 0;
  int64_t granted_total = 0;
  int64_t committed_total = 0;
  int64_t expired_total = 0;       // leases that ended without a renewal
  int64_t fenced_total = 0;        // writes of old epochs refused
  int64_t recoveries_total = 0;
  std::vector<std::pair<core::TerminationReason, int64_t>> attempts_ended;
};

/// A worker as it is now, beside its row.
struct WorkerView {
  WorkerRow row;
  int slots_used = 0;
  int cuda_slots = 0;
  std::vector<std::string> leases;  // names of the work it holds
};

}  // namespace sbora::server
