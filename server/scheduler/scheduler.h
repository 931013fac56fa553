/// The lock domain of work, leases and workers. Every method takes the lock, lets what is due happen (Enter), decides, and
/// pushes a Transition into the commit queue before it lets go: the order of decisions is the order of commits. Time is
/// handed in; there is no I/O, no callback and no log line under the lock.
///
/// Memory runs ahead of the store. Nothing of it leaves before `Committed` has been told of the ticket: answers to agents
/// are made from what is published, and `done` of a call runs on the store thread after the commit.
///
/// Only work that has not ended, or whose lease has not, is in memory: for anything else a method answers NOT_FOUND
/// WORK_NOT_ACTIVE and the caller looks into the store.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "server/scheduler/commit_queue.h"
#include "server/scheduler/deadlines.h"
#include "server/scheduler/tables.h"
#include "server/scheduler/types.h"
#include "server/scheduler/work_queue.h"

namespace sbora::server {

/// Both clocks at one moment; wall time is for display only.
struct Moment {
  MonotonicTime now;
  int64_t wall_ms = 0;
};

class Scheduler {
 public:
  using Done = std::function<void(const Status&)>;

  /// `queue` must outlive the scheduler.
  Scheduler(SchedulerConfig config, CommitQueue* queue) : config_(config), queue_(*queue) {}

  // --- life -------------------------------------------------------------------------------------------------------

  /// Takes over what the store holds; every lease counts as renewed at `at`. Serving from here.
  void Load(ActiveState state, Moment at);
  /// Drops all memory; every method answers `refusal`, an UNAVAILABLE NOT_SERVING that says why, until the next Load.
  void Drop(Status refusal);
  /// What is in the store now may leave. Returns workers whose answer may have changed.
  std::set<std::string> Committed(const std::vector<uint64_t>& tickets);

  // --- work -------------------------------------------------------------------------------------------------------

  /// The transition of a new piece of work, not pushed and not remembered: its preconditions are the store's. After its
  /// commit, `Add` takes it up.
  static std::pair<Work, Transition> PrepareSubmit(SubmitRequest request, int64_t wall_ms);
  void Add(const Work& work, Moment at);

  Status MarkValidated(std::string_view name, const EventItem& found, Moment at, Done done);
  Status FailValidation(std::string_view name, const Failure& failure, Moment at, Done done);
  StatusOr<Work> Cancel(std::string_view name, int64_t tag, Moment at, Done done);
  StatusOr<Work> Pause(std::string_view name, int64_t tag, Moment at, Done done);
  StatusOr<Work> Resume(std::string_view name, int64_t tag, Moment at, Done done);

  // --- workers ----------------------------------------------------------------------------------------------------

  /// Takes the report in. FAILED_PRECONDITION WORKER_REPLACED for an instance that a newer one has replaced.
  Status Synchronize(const SyncRequest& request, Moment at, Done done);
  /// The answer to a taken-in report, from what is published; nullopt when it holds no news and `force` is false.
  /// UNAVAILABLE NOT_SERVING when memory was dropped since: an agent reads a lease's absence from an answer as its end
  /// being durable, so that no answer at all must leave here then. FAILED_PRECONDITION WORKER_REPLACED.
  StatusOr<std::optional<SyncResponse>> Answer(const SyncRequest& request, bool force, Moment at);

  /// The work of a lease that may commit; FAILED_PRECONDITION LEASE_FENCED.
  StatusOr<Work> CheckLease(const core::LeaseId& lease, Moment at);
  /// OK also when this very lease has committed and is still in memory.
  Status CommitAttempt(const CommitRequest& request, Moment at, Done done);

  StatusOr<WorkerView> DrainWorker(std::string_view name, Moment at, Done done);
  std::vector<WorkerView> ListWorkers() const;

  // --- others -----------------------------------------------------------------------------------------------------

  /// A service's own rows, or with none a barrier, behind everything decided so far.
  Status Push(Transition transition);
  /// Lets what is due happen.
  void Tick(Moment at);
  MonotonicTime NextDeadline() const;
  std::string Progress(std::string_view work_uid) const;
  SchedulerSnapshot Snapshot(Moment at) const;
  std::optional<Work> Find(std::string_view name) const;

 private:
  /// One decision being built, under the lock.
  struct Draft {
    explicit Draft(Moment moment) : at(moment) {}
    Moment at;
    Transition transition;
    std::set<std::string> touched_works;   // row to be written
    std::set<std::string> touched_leases;  // row to be written
    std::set<std::string> ended_leases;    // row to be deleted
    std::set<std::string> touched_workers;
    std::map<std::string, Publication> publications;  // by work uid
    std::vector<std::string> ended_works;  // to forget once committed
    std::set<std::string> wake;            // workers whose answer changes
    std::vector<Mutation> extra;
  };

  /// Lets what is due happen, in a transition of its own. UNAVAILABLE NOT_SERVING.
  Status Enter(Moment at) SBORA_REQUIRES(mutex_);
  /// Writes rows for all that was touched, numbers the transition and pushes it; nothing to say and no `done`: nothing.
  void Leave(Draft draft, Done done) SBORA_REQUIRES(mutex_);
  StatusOr<WorkEntry*> FindWork(std::string_view name, int64_t tag) SBORA_REQUIRES(mutex_);
  /// FAILED_PRECONDITION NOT_VALIDATING when it is past that.
  StatusOr<WorkEntry*> FindValidating(std::string_view name) SBORA_REQUIRES(mutex_);

  // Steps of a decision (scheduler_steps.cc).
  void Apply(Draft& draft, WorkEntry& work, core::JobEvent event, std::string_view why) SBORA_REQUIRES(mutex_);
  void AddEvent(Draft& draft, WorkEntry& work, int level, std::string type, std::string message, int64_t time_ms)
      SBORA_REQUIRES(mutex_);
  void Count(WorkEntry& work, MonotonicTime now) SBORA_REQUIRES(mutex_);
  void Enqueue(WorkEntry& work, MonotonicTime now) SBORA_REQUIRES(mutex_);
  void ArmWork(const WorkEntry& work) SBORA_REQUIRES(mutex_);
  /// Time in the queue after which work that nobody could take is told of it: two renewals, so that workers which
  /// start beside the server have joined.
  int64_t TellAfterMs() const { return std::chrono::duration_cast<std::chrono::milliseconds>(2 * config_.timing.renew_every).count(); }
  std::optional<MonotonicTime> WorkDeadline(const WorkEntry& work) const SBORA_REQUIRES(mutex_);
  std::optional<MonotonicTime> LeaseDeadline(const LeaseEntry& lease) const SBORA_REQUIRES(mutex_);
  void WorkDue(Draft& draft, WorkEntry& work) SBORA_REQUIRES(mutex_);
  void LeaseDue(Draft& draft, LeaseEntry& lease) SBORA_REQUIRES(mutex_);
  void WorkerDue(Draft& draft, const std::string& name) SBORA_REQUIRES(mutex_);
  /// Asks the agent to end its ranks; a stronger reason replaces a weaker one. A lease that never left ends at once, and with
  /// it perhaps others of its gang.
  void StopLease(Draft& draft, LeaseEntry& lease, StopReason reason) SBORA_REQUIRES(mutex_);
  /// `confirmed`: its ranks are known to be gone; otherwise the work waits for the re-dispatch time. The other leases of the
  /// gang are stopped, unless this was a part that ended well; the last one ends the attempt.
  void EndLease(Draft& draft, const std::string& lease_uid, core::TerminationReason reason, const Failure& failure,
                bool confirmed) SBORA_REQUIRES(mutex_);
  /// The last lease of an attempt that did not commit is over: the work is tried again, or ends.
  void EndAttempt(Draft& draft, WorkEntry& work, int64_t start_checkpoint_step, const AttemptEnd& end)
      SBORA_REQUIRES(mutex_);
  /// To a terminal state by `event`; stops the leases that there still are.
  void EndWork(Draft& draft, WorkEntry& work, core::JobEvent event, core::TerminationReason reason,
               const Failure& failure) SBORA_REQUIRES(mutex_);
  /// Slots are free, the row goes; what it means for the work is the caller's.
  LeaseRow DropLease(Draft& draft, LeaseEntry& lease) SBORA_REQUIRES(mutex_);
  /// Committed work that has ended and holds no lease goes out of memory.
  void Forget(const std::string& work_uid) SBORA_REQUIRES(mutex_);

  // Leases of one gang (scheduler_gang.cc).
  /// Stops all its leases. When this returns, some or all of them may have ended.
  void StopGang(Draft& draft, WorkEntry& work, StopReason reason) SBORA_REQUIRES(mutex_);
  /// One of its leases, `part`, has ended for `reason`, and others are left: stops these.
  void AfterPart(Draft& draft, WorkEntry& work, const LeaseRow& part, core::TerminationReason reason) SBORA_REQUIRES(mutex_);
  /// What memory holds of a gang beyond its rows, as far as these tell.
  void LoadGang(WorkEntry& work, Moment at) SBORA_REQUIRES(mutex_);
  /// Whether its ranks may start, and where they meet; news for its workers once all know.
  void TakeMeeting(Draft& draft, WorkEntry& work, LeaseEntry& lease, const AttemptReport& report) SBORA_REQUIRES(mutex_);
  /// Where the ranks of a gang over several workers meet; empty before all its parts are ready.
  std::string MeetingOf(const WorkEntry& work) const SBORA_REQUIRES(mutex_);
  /// OK when the lease may commit its work's result; LEASE_FENCED.
  Status CheckCommit(const LeaseEntry& lease) SBORA_REQUIRES(mutex_);

  // Dispatch (scheduler_dispatch.cc).
  /// What one worker gives to a gang.
  struct Part {
    WorkerEntry* worker;
    std::vector<std::string> slots;
  };
  void Dispatch(Draft& draft) SBORA_REQUIRES(mutex_);
  /// `parts` in the order of their ranks.
  void Grant(Draft& draft, WorkEntry& work, std::vector<Part> parts) SBORA_REQUIRES(mutex_);
  std::optional<DeviceKind> ResolveDevice(const WorkRow& row) const SBORA_REQUIRES(mutex_);
  /// An event for work that no connected worker could take, free or busy: else it would wait in silence.
  void TellOfWorkers(Draft& draft, WorkEntry& work) SBORA_REQUIRES(mutex_);

  // Reports (scheduler_sync.cc).
  StatusOr<WorkerEntry*> TakeWorker(Draft& draft, const SyncRequest& request) SBORA_REQUIRES(mutex_);
  void TakeSlots(Draft& draft, WorkerEntry& worker, const SyncRequest& request) SBORA_REQUIRES(mutex_);
  void TakeAttempt(Draft& draft, LeaseEntry& lease, const AttemptReport& report) SBORA_REQUIRES(mutex_);
  void TakeItems(Draft& draft, WorkEntry& work, LeaseEntry& lease, const std::vector<ReportItem>& items)
      SBORA_REQUIRES(mutex_);
  void TakeCheckpoint(Draft& draft, WorkEntry& work, LeaseEntry& lease, const CheckpointItem& checkpoint)
      SBORA_REQUIRES(mutex_);
  LeaseEntry* FindLease(const core::LeaseId& id) SBORA_REQUIRES(mutex_);
  StartDecision StartOf(const LeaseEntry& lease) const SBORA_REQUIRES(mutex_);
  WorkerView ViewOf(const WorkerEntry& worker) const SBORA_REQUIRES(mutex_);

  const SchedulerConfig config_;
  CommitQueue& queue_;

  mutable Mutex mutex_;
  bool serving_ SBORA_GUARDED_BY(mutex_) = false;
  Status refusal_ SBORA_GUARDED_BY(mutex_) = Unavailable("NOT_SERVING", "the server is starting; try again");
  bool dispatch_due_ SBORA_GUARDED_BY(mutex_) = false;
  std::map<std::string, WorkEntry, std::less<>> works_ SBORA_GUARDED_BY(mutex_);  // by uid
  std::map<std::string, std::string, std::less<>> uid_of_name_ SBORA_GUARDED_BY(mutex_);
  std::map<std::string, LeaseEntry, std::less<>> leases_ SBORA_GUARDED_BY(mutex_);
  std::map<std::string, WorkerEntry, std::less<>> workers_ SBORA_GUARDED_BY(mutex_);
  uint64_t next_place_ SBORA_GUARDED_BY(mutex_) = 1;
  WorkQueue waiting_ SBORA_GUARDED_BY(mutex_);
  Deadlines deadlines_ SBORA_GUARDED_BY(mutex_);
  uint64_t next_ticket_ SBORA_GUARDED_BY(mutex_) = 1;

  /// What a commit publishes, by ticket.
  struct Pending {
    uint64_t ticket = 0;
    std::vector<LeaseRow> leases;           // published as written
    std::vector<std::string> ended_works;   // to forget
    std::set<std::string> ended_leases;     // uids
    std::set<std::string> wake;             // workers
  };
  std::deque<Pending> pending_ SBORA_GUARDED_BY(mutex_);
  std::set<std::string> ending_leases_ SBORA_GUARDED_BY(mutex_);  // over in memory, not yet in the store
  std::deque<std::string> recent_commits_ SBORA_GUARDED_BY(mutex_);  // lease uids, a bounded number
  SchedulerSnapshot totals_ SBORA_GUARDED_BY(mutex_);                // the *_total fields
  std::map<core::TerminationReason, int64_t> attempts_ended_ SBORA_GUARDED_BY(mutex_);
};

}  // namespace sbora::server
