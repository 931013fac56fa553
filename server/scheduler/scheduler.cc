#include "server/scheduler/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/ids.h"
#include "common/status_macros.h"
#include "server/scheduler/retry_policy.h"

namespace sbora::server {

using core::JobEvent;
using core::JobState;
using core::TerminationReason;

namespace {

/// Codes that state a fact about what was handed in; the others are trouble of the server's own.
bool IsAboutTheInput(StatusCode code) {
  return code == StatusCode::kInvalidArgument || code == StatusCode::kFailedPrecondition || code == StatusCode::kOutOfRange ||
         code == StatusCode::kUnimplemented;
}

}  // namespace

Status SchedulerConfig::Check() const {
  const Duration zero = Duration::zero();
  const bool ordered = zero < timing.renew_every && timing.renew_every < timing.self_fence &&
                       2 * timing.self_fence <= timing.lease && timing.lease <= timing.redispatch;
  if (ordered && timing.hang > zero && backoff > zero && backoff_max >= backoff && max_attempts > 0 &&
      poll_idle > zero && poll_busy > zero) {
    return OkStatus();
  }
  const auto seconds = [](Duration d) { return std::chrono::duration<double>(d).count(); };
  return InvalidArgument(
      "BAD_TIMING",
      fmt::format("need 0 < renew < self-fence, 2 x self-fence <= lease <= re-dispatch and positive others; got renew {}, self-fence {}, "
                  "lease {}, re-dispatch {}, hang {}, back-off {} to {}, max attempts {}",
                  seconds(timing.renew_every), seconds(timing.self_fence), seconds(timing.lease),
                  seconds(timing.redispatch), seconds(timing.hang), seconds(backoff), seconds(backoff_max),
                  max_attempts));
}

// --- life -----------------------------------------------------------------------------------------------------------

void Scheduler::Load(ActiveState state, Moment at) {
  MutexLock lock(mutex_);
  serving_ = true;
  Draft draft(at);
  for (WorkerRow& row : state.workers) {
    WorkerEntry& worker = workers_[row.name];
    worker.seen = at.now;
    deadlines_.Push(at.now + config_.timing.lease, Deadlines::Kind::kWorker, row.name);
    worker.row = std::move(row);
  }
  for (Work& work : state.works) {
    uid_of_name_[work.row.name] = work.row.uid;
    WorkEntry& entry = works_[work.row.uid];
    entry.payload = std::move(work.payload);
    entry.row = std::move(work.row);
    entry.place = next_place_++;
    entry.counted = at.now;
  }
  for (CheckpointRow& row : state.checkpoints) {
    WorkEntry& work = works_.at(row.work_uid);
    if (row.step >= work.row.checkpoint_step) continue;
    work.older_checkpoint_step = row.step;
    work.older_checkpoint_files = std::move(row.files);
  }
  for (LeaseRow& row : state.leases) {
    LeaseEntry& lease = leases_[row.id.uid];
    lease.row = std::move(row);
    lease.renewed = lease.counted = at.now;
    lease.handed_out = lease.published = true;
    lease.published_stop = lease.row.stop;
    lease.published_item = lease.row.acknowledged_item;
    WorkerEntry& worker = workers_[lease.row.worker];
    for (const std::string& slot : lease.row.slots) worker.used[slot] = lease.row.id.uid;
    worker.leases.insert(lease.row.id.uid);
    works_.at(lease.row.work_uid).leases[lease.row.first_rank] = lease.row.id.uid;
    deadlines_.Push(*LeaseDeadline(lease), Deadlines::Kind::kLease, lease.row.id.uid);
  }
  for (auto& [uid, work] : works_) {
    // A lease that ran out just before the restart may still be within its re-dispatch margin.
    if (work.row.state == JobState::kRecovering) {
      work.not_before = at.now + std::max(BackoffAfter(config_, work.row.reason, work.row.backoff_steps),
                                          config_.timing.redispatch - config_.timing.lease);
    }
    LoadGang(work, at);
    if (work.row.state == JobState::kQueued) Enqueue(work, at.now);
    ArmWork(work);
  }
  dispatch_due_ = true;
  Leave(std::move(draft), nullptr);
}

void Scheduler::Drop(Status refusal) {
  MutexLock lock(mutex_);
  serving_ = false;
  refusal_ = std::move(refusal);
  works_.clear();
  uid_of_name_.clear();
  leases_.clear();
  workers_.clear();
  waiting_ = {};
  deadlines_ = {};
  pending_.clear();
  recent_commits_.clear();
  ending_leases_.clear();
}

std::set<std::string> Scheduler::Committed(const std::vector<uint64_t>& tickets) {
  MutexLock lock(mutex_);
  std::set<std::string> wake;
  for (const uint64_t ticket : tickets) {
    while (!pending_.empty() && pending_.front().ticket <= ticket) {
      const Pending pending = std::move(pending_.front());
      pending_.pop_front();
      for (const LeaseRow& row : pending.leases) {
        const auto lease = leases_.find(row.id.uid);
        if (lease == leases_.end()) continue;
        lease->second.published = true;
        lease->second.published_stop = row.stop;
        lease->second.published_item = row.acknowledged_item;
      }
      for (const std::string& uid : pending.ended_works) Forget(uid);
      for (const std::string& uid : pending.ended_leases) ending_leases_.erase(uid);
      wake.insert(pending.wake.begin(), pending.wake.end());
    }
  }
  return wake;
}

void Scheduler::Forget(const std::string& work_uid) {
  const auto found = works_.find(work_uid);
  if (found == works_.end() || !found->second.leases.empty()) return;
  uid_of_name_.erase(found->second.row.name);
  works_.erase(found);
}

Status Scheduler::Enter(Moment at) {
  if (!serving_) return refusal_;
  Draft draft(at);
  while (deadlines_.Due(at.now)) {
    const Deadlines::Entry entry = deadlines_.Pop();
    switch (entry.kind) {
      case Deadlines::Kind::kWork:
        if (const auto work = works_.find(entry.key); work != works_.end()) WorkDue(draft, work->second);
        break;
      case Deadlines::Kind::kLease:
        if (const auto lease = leases_.find(entry.key); lease != leases_.end()) LeaseDue(draft, lease->second);
        break;
      case Deadlines::Kind::kWorker:
        WorkerDue(draft, entry.key);
        break;
    }
  }
  Leave(std::move(draft), nullptr);
  return OkStatus();
}

void Scheduler::Leave(Draft draft, Done done) {
  if (dispatch_due_) Dispatch(draft);
  std::vector<Mutation>& mutations = draft.transition.writes.mutations;
  Pending pending;
  for (const std::string& uid : draft.ended_leases) mutations.push_back(DeleteLease{uid});
  for (const std::string& uid : draft.touched_works) {
    WorkEntry& work = works_.at(uid);
    Count(work, draft.at.now);
    ++work.row.version;
    mutations.push_back(PutWork{.row = work.row, .payload = nullptr, .uses = {}, .reserves = {}});
  }
  for (const std::string& uid : draft.touched_leases) {
    const LeaseEntry& lease = leases_.at(uid);
    mutations.push_back(PutLease{lease.row});
    pending.leases.push_back(lease.row);
  }
  for (const std::string& name : draft.touched_workers) mutations.push_back(PutWorker{workers_.at(name).row});
  std::move(draft.extra.begin(), draft.extra.end(), std::back_inserter(mutations));
  for (auto& [uid, publication] : draft.publications) draft.transition.publish.push_back(std::move(publication));
  if (mutations.empty() && draft.transition.publish.empty() && !done) return;
  pending.ticket = draft.transition.ticket = next_ticket_++;
  pending.ended_works = std::move(draft.ended_works);
  pending.wake = std::move(draft.wake);
  ending_leases_.insert(draft.ended_leases.begin(), draft.ended_leases.end());
  pending.ended_leases = std::move(draft.ended_leases);
  pending_.push_back(std::move(pending));
  draft.transition.done = std::move(done);
  queue_.Push(std::move(draft.transition));
}

// --- work -----------------------------------------------------------------------------------------------------------

std::pair<Work, Transition> Scheduler::PrepareSubmit(SubmitRequest request, int64_t wall_ms) {
  Work work;
  WorkRow& row = work.row;
  row.uid = request.uid.empty() ? NewUuid7() : std::move(request.uid);
  row.kind = request.kind;
  row.project = std::move(request.project);
  row.id = std::move(request.id);
  row.name = std::move(request.name);
  row.version = 1;
  row.state = request.validated ? JobState::kQueued : JobState::kValidating;
  row.priority = request.priority;
  row.ranks = request.ranks;
  row.device = request.device;
  row.max_queue_ms = request.max_queue_ms;
  row.max_attempt_ms = request.max_attempt_ms;
  row.max_total_ms = request.max_total_ms;
  row.create_ms = wall_ms;
  row.request_id = request.request_id;
  row.sequence = 1;
  work.payload = std::make_shared<const WorkPayload>(std::move(request.payload));

  Transition transition;
  transition.writes.may_fail = true;
  std::vector<Mutation>& mutations = transition.writes.mutations;
  if (!request.request_id.empty()) {
    mutations.push_back(InsertRequest{RequestRow{.project = row.project,
                                                 .request_id = std::move(request.request_id),
                                                 .hash = std::move(request.request_hash),
                                                 .name = row.name,
                                                 .create_ms = wall_ms,
                                                 .uid = row.uid}});
  }
  mutations.push_back(PutWork{.row = row,
                              .payload = work.payload,
                              .uses = std::move(request.uses),
                              .reserves = std::move(request.reserves)});
  mutations.push_back(server::AddEvent{EventRow{.work_uid = row.uid,
                                                .sequence = 1,
                                                .time_ms = wall_ms,
                                                .level = 1,
                                                .type = "STATE_CHANGED",
                                                .message = fmt::format("accepted, {}", core::JobStateName(row.state)),
                                                .attempt = 0}});
  std::move(request.extra.begin(), request.extra.end(), std::back_inserter(mutations));
  return {std::move(work), std::move(transition)};
}

void Scheduler::Add(const Work& work, Moment at) {
  MutexLock lock(mutex_);
  if (!Enter(at).ok()) return;  // the next Load finds it in the store
  uid_of_name_[work.row.name] = work.row.uid;
  WorkEntry& entry = works_[work.row.uid];
  entry.row = work.row;
  entry.payload = work.payload;
  entry.place = next_place_++;
  entry.counted = at.now;
  if (work.row.state == JobState::kQueued) Enqueue(entry, at.now);
  ArmWork(entry);
  Leave(Draft(at), nullptr);
}

StatusOr<WorkEntry*> Scheduler::FindWork(std::string_view name, int64_t tag) {
  const auto uid = uid_of_name_.find(name);
  if (uid == uid_of_name_.end()) return NotFound("WORK_NOT_ACTIVE", fmt::format("{} is not active", name));
  WorkEntry& work = works_.at(uid->second);
  if (tag != 0 && tag != work.row.ChangeTag()) {
    return Aborted("ETAG_MISMATCH", fmt::format("{} is not what the etag was read from; read it again", name));
  }
  return &work;
}

StatusOr<WorkEntry*> Scheduler::FindValidating(std::string_view name) {
  SBORA_ASSIGN_OR_RETURN(WorkEntry* const work, FindWork(name, 0));
  if (work->row.state == JobState::kValidating) return work;
  return FailedPrecondition("NOT_VALIDATING", fmt::format("{} is {}, not VALIDATING", name, core::JobStateName(work->row.state)));
}

Status Scheduler::MarkValidated(std::string_view name, const EventItem& found, Moment at, Done done) {
  MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(Enter(at));
  SBORA_ASSIGN_OR_RETURN(WorkEntry* const work, FindValidating(name));
  Draft draft(at);
  AddEvent(draft, *work, found.level, found.type, found.message, found.time_ms);
  Apply(draft, *work, JobEvent::kValidated, "the data fits the model");
  Enqueue(*work, at.now);
  Leave(std::move(draft), std::move(done));
  return OkStatus();
}

Status Scheduler::FailValidation(std::string_view name, const Failure& failure, Moment at, Done done) {
  MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(Enter(at));
  SBORA_ASSIGN_OR_RETURN(WorkEntry* const work, FindValidating(name));
  Draft draft(at);
  const bool input = IsAboutTheInput(static_cast<StatusCode>(failure.code));
  EndWork(draft, *work, JobEvent::kRefused, input ? TerminationReason::kInvalidInput : TerminationReason::kInternal, failure);
  Leave(std::move(draft), std::move(done));
  return OkStatus();
}

StatusOr<Work> Scheduler::Cancel(std::string_view name, int64_t tag, Moment at, Done done) {
  MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(Enter(at));
  SBORA_ASSIGN_OR_RETURN(WorkEntry* const work, FindWork(name, tag));
  const JobState state = work->row.state;
  if (core::IsTerminal(state)) {
    return FailedPrecondition("JOB_ENDED", fmt::format("{} is {} already", name, core::JobStateName(state)));
  }
  Draft draft(at);
  const Failure none;
  if (work->leases.empty()) {
    EndWork(draft, *work, JobEvent::kCancelAsked, TerminationReason::kCancelledByUser, none);
  } else if (state != JobState::kCancelling) {
    Apply(draft, *work, JobEvent::kCancelAsked, "asked by the user");
    StopGang(draft, *work, StopReason::kCancel);
  }
  Leave(std::move(draft), std::move(done));
  return Work{work->row, work->payload};
}

StatusOr<Work> Scheduler::Pause(std::string_view name, int64_t tag, Moment at, Done done) {
  MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(Enter(at));
  SBORA_ASSIGN_OR_RETURN(WorkEntry* const work, FindWork(name, tag));
  const JobState state = work->row.state;
  const bool under_way = state == JobState::kPausing || state == JobState::kPaused;
  if (!under_way && !core::NextState(state, JobEvent::kPauseAsked)) {
    return FailedPrecondition(core::IsTerminal(state) ? "JOB_ENDED" : "JOB_NOT_PAUSABLE",
                              fmt::format("{} is {}; only a queued or running job can be paused", name,
                                          core::JobStateName(state)));
  }
  Draft draft(at);
  if (!under_way) {
    waiting_.Remove(work->row.uid);
    if (work->leases.empty()) work->row.reason = TerminationReason::kPausedByUser;
    Apply(draft, *work, JobEvent::kPauseAsked, "asked by the user");
    StopGang(draft, *work, StopReason::kPause);
  }
  Leave(std::move(draft), std::move(done));
  return Work{work->row, work->payload};
}

StatusOr<Work> Scheduler::Resume(std::string_view name, int64_t tag, Moment at, Done done) {
  MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(Enter(at));
  SBORA_ASSIGN_OR_RETURN(WorkEntry* const work, FindWork(name, tag));
  if (work->row.state != JobState::kPaused) {
    return FailedPrecondition(core::IsTerminal(work->row.state) ? "JOB_ENDED" : "JOB_NOT_PAUSED",
                              fmt::format("{} is {}; only a paused job can be resumed", name,
                                          core::JobStateName(work->row.state)));
  }
  Draft draft(at);
  work->row.reason = TerminationReason::kUnspecified;
  Apply(draft, *work, JobEvent::kResumeAsked, "asked by the user");
  Enqueue(*work, at.now);
  Leave(std::move(draft), std::move(done));
  return Work{work->row, work->payload};
}

// --- others ---------------------------------------------------------------------------------------------------------

Status Scheduler::Push(Transition transition) {
  MutexLock lock(mutex_);
  if (!serving_) return refusal_;
  queue_.Push(std::move(transition));
  return OkStatus();
}

void Scheduler::Tick(Moment at) {
  MutexLock lock(mutex_);
  Enter(at).IgnoreError("nothing is due while not serving");
}

MonotonicTime Scheduler::NextDeadline() const {
  MutexLock lock(mutex_);
  return deadlines_.Next();
}

std::string Scheduler::Progress(std::string_view work_uid) const {
  MutexLock lock(mutex_);
  const auto found = works_.find(work_uid);
  return found == works_.end() ? std::string() : found->second.progress;
}

std::optional<Work> Scheduler::Find(std::string_view name) const {
  MutexLock lock(mutex_);
  const auto uid = uid_of_name_.find(name);
  if (uid == uid_of_name_.end()) return std::nullopt;
  const WorkEntry& work = works_.at(uid->second);
  return Work{work.row, work.payload};
}

SchedulerSnapshot Scheduler::Snapshot(Moment at) const {
  MutexLock lock(mutex_);
  SchedulerSnapshot snapshot = totals_;
  std::map<JobState, int> by_state;
  for (const auto& [uid, work] : works_) {
    if (!core::IsTerminal(work.row.state)) ++by_state[work.row.state];
    if (work.row.state != JobState::kQueued) continue;
    const double waited = static_cast<double>(work.row.queued_ms) / 1000 +
                          std::chrono::duration<double>(at.now - work.counted).count();
    snapshot.oldest_queued_seconds = std::max(snapshot.oldest_queued_seconds, waited);
  }
  snapshot.works_by_state.assign(by_state.begin(), by_state.end());
  for (const auto& [name, worker] : workers_) {
    snapshot.workers_ready += worker.row.state == WorkerState::kReady ? 1 : 0;
    snapshot.workers_draining += worker.row.state == WorkerState::kDraining ? 1 : 0;
    snapshot.workers_lost += worker.row.state == WorkerState::kLost ? 1 : 0;
    if (worker.row.state != WorkerState::kLost) snapshot.slots_total += static_cast<int>(worker.slots.size());
    snapshot.slots_used += static_cast<int>(worker.used.size());
  }
  snapshot.leases = static_cast<int>(leases_.size());
  snapshot.attempts_ended.assign(attempts_ended_.begin(), attempts_ended_.end());
  return snapshot;
}

}  // namespace sbora::server
