/// What the services call: the scheduler, its store thread, its timer and its watchers in one object.
///
///     SBORA_ASSIGN_OR_RETURN(auto coordinator, Coordinator::Start({.store = *store}));
///     SBORA_ASSIGN_OR_RETURN(Work work, coordinator->Submit(std::move(request)));   // durable from here
///
/// Every call answers only after its changes are durable. Blocking calls may be made from any thread except from the
/// callbacks given to this object; callbacks run on the store or the timer thread and must not block.
///
/// Errors common to all: UNAVAILABLE NOT_SERVING while the store cannot be written: nothing was accepted, try again.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/status.h"
#include "server/scheduler/types.h"
#include "server/scheduler/watch_hub.h"
#include "server/store/store.h"

namespace sbora::server {

struct CoordinatorOptions {
  Store* store = nullptr;  // must outlive the coordinator
  SchedulerConfig config;
  const Clock* clock = nullptr;  // default: SystemClock()
  /// Told when serving begins, stops and begins again (health service). Called on the store thread, once before Start
  /// returns. May be empty.
  std::function<void(bool serving)> on_serving;
  /// How long each pass over what is due took. Called on the timer thread. May be empty.
  std::function<void(Duration)> on_cycle;
  /// False: no timer thread; a test calls RunDue() itself.
  bool timer = true;
};

class Coordinator {
 public:
  /// Loads what was going on; every stored lease counts as renewed now.
  static StatusOr<std::unique_ptr<Coordinator>> Start(CoordinatorOptions options);
  /// Answers all held calls (UNAVAILABLE), ends watchers, finishes queued commits, joins.
  virtual ~Coordinator() = default;

  // --- Work -------------------------------------------------------------------------------------------------------

  /// With a request_id seen before: as FindSubmitted.
  /// INVALID_ARGUMENT TASK_TOO_LARGE above kMaxTaskBytes.
  /// ALREADY_EXISTS <KIND>_EXISTS when the name, or a name it reserves, is taken; NOT_FOUND when a used name is gone.
  virtual StatusOr<Work> Submit(SubmitRequest request) = 0;
  /// The work that an earlier call with this request_id made; nullopt for a new or empty one. To be asked before anything
  /// else: what the first call referred to may be gone. ALREADY_EXISTS REQUEST_ID_REUSED when the content differs;
  /// NOT_FOUND REQUEST_RESULT_DELETED when what it made is gone, even if a namesake is there.
  virtual StatusOr<std::optional<Work>> FindSubmitted(std::string_view project, std::string_view request_id,
                                                      std::string_view request_hash) const = 0;
  /// VALIDATING -> QUEUED with `found` among the job's events, or -> FAILED with `failure`: INVALID_INPUT when its code is about the input, else INTERNAL.
  /// FAILED_PRECONDITION NOT_VALIDATING when it is past that, JOB_ENDED when it was cancelled meanwhile.
  virtual Status MarkValidated(std::string_view name, EventItem found) = 0;
  virtual Status FailValidation(std::string_view name, Failure failure) = 0;
  /// `tag` 0: any; otherwise ABORTED ETAG_MISMATCH when it is not the row's ChangeTag. NOT_FOUND; FAILED_PRECONDITION
  /// JOB_ENDED, or JOB_NOT_PAUSABLE / JOB_NOT_PAUSED / JOB_NOT_TERMINAL naming the state. Cancel and Pause of a
  /// running job answer in CANCELLING or PAUSING. Asking again for what is already under way is OK.
  virtual StatusOr<Work> Cancel(std::string_view name, int64_t tag) = 0;
  virtual StatusOr<Work> Pause(std::string_view name, int64_t tag) = 0;
  virtual StatusOr<Work> Resume(std::string_view name, int64_t tag) = 0;
  virtual Status Delete(std::string_view name, int64_t tag) = 0;

  /// Blocks until the work has ended or `deadline` (then the work as it is, not an error).
  virtual StatusOr<Work> Wait(std::string_view name, MonotonicTime deadline) = 0;
  virtual StatusOr<std::unique_ptr<Watcher>> Watch(std::string_view name, int64_t after_sequence,
                                                   std::function<void()> wake) = 0;
  /// The last progress reported (serialised sbora.v1.JobProgress), empty when none. Lives in memory only.
  virtual std::string Progress(std::string_view work_uid) const = 0;

  // --- Workers ----------------------------------------------------------------------------------------------------

  using SyncDone = std::function<void(StatusOr<SyncResponse>)>;
  /// A handle for CancelSync, never 0. `done` is called exactly once, possibly before this returns. A second call of one
  /// worker answers the held first one at once (ABORTED SYNC_REPLACED).
  virtual uint64_t Synchronize(SyncRequest request, SyncDone done) = 0;
  /// Drops the held call (the client went away); `done` is called with CANCELLED unless it was called already.
  virtual void CancelSync(uint64_t handle) = 0;

  /// OK when this lease may commit now; FAILED_PRECONDITION LEASE_FENCED when not. `*committed` is set when this very
  /// lease has committed already (answer OK, do nothing more). Call it before putting the manifest. The work it belongs
  /// to is returned.
  virtual StatusOr<Work> CheckLease(const core::LeaseId& lease, bool* committed) = 0;
  /// The one commit point. A repeat of the accepted commit is OK.
  virtual Status CommitAttempt(CommitRequest request) = 0;

  /// NOT_FOUND WORKER_NOT_FOUND. No new leases; running attempts checkpoint and go elsewhere.
  virtual StatusOr<WorkerView> DrainWorker(std::string_view name) = 0;
  virtual std::vector<WorkerView> ListWorkers() const = 0;

  // --- Other rows -------------------------------------------------------------------------------------------------

  /// Writes rows of the services (uploads, objects, resources, requests) in one transaction behind the same queue.
  virtual Status Write(std::vector<Mutation> mutations) = 0;
  /// As FindSubmitted, of CreateResource.
  virtual StatusOr<std::optional<ResourceRow>> FindCreated(std::string_view project, std::string_view request_id,
                                                           std::string_view request_hash) const = 0;
  /// Makes a resource once per request_id: `*existing` is set when an earlier call with the same id and hash made it.
  virtual StatusOr<ResourceRow> CreateResource(ResourceRow row, std::vector<Mutation> extra, RequestRow request,
                                               bool* existing) = 0;

  virtual bool serving() const = 0;
  virtual SchedulerSnapshot Snapshot() const = 0;
  virtual const Store& store() const = 0;
  /// Runs what is due now (expiry, back-off, dispatch, held calls). Called by the timer thread; public for tests.
  virtual void RunDue() = 0;
};

}  // namespace sbora::server
