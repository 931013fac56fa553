// What happens to one piece of work, one lease, one worker: the steps that decisions are made of.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "server/scheduler/retry_policy.h"
#include "server/scheduler/scheduler.h"

namespace sbora::server {

using core::JobEvent;
using core::JobState;
using core::TerminationReason;

namespace {

constexpr Duration kForgetWorkerAfter = std::chrono::hours(24);

std::chrono::milliseconds WholeMillis(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration);
}

std::string Describe(TerminationReason reason, const Failure& failure) {
  if (failure.message.empty()) return std::string(core::TerminationReasonName(reason));
  return fmt::format("{}: {}", core::TerminationReasonName(reason), failure.message);
}

}  // namespace

void Scheduler::Count(WorkEntry& work, MonotonicTime now) {
  const auto passed = WholeMillis(now - work.counted);
  work.counted += passed;  // whole milliseconds only, so that many short looks lose nothing
  if (core::IsTerminal(work.row.state)) return;
  if (work.row.state != JobState::kPaused) work.row.total_ms += passed.count();
  if (work.row.state == JobState::kQueued) work.row.queued_ms += passed.count();
}

void Scheduler::Apply(Draft& draft, WorkEntry& work, JobEvent event, std::string_view why) {
  const JobState from = work.row.state;
  const std::optional<JobState> to = core::NextState(from, event);
  SBORA_CHECK(to.has_value(), "{}: {} has no meaning in {}", work.row.name, core::JobEventName(event),
              core::JobStateName(from));
  Count(work, draft.at.now);
  work.row.state = *to;
  ++work.row.generation;
  if (*to == JobState::kQueued) {
    work.row.queued_ms = 0;
    work.told_of_workers = false;
  }
  if (*to == JobState::kRunning && work.row.start_ms == 0) work.row.start_ms = draft.at.wall_ms;
  AddEvent(draft, work, *to == JobState::kFailed ? 3 : *to == JobState::kRecovering ? 2 : 1, "STATE_CHANGED",
           fmt::format("{} -> {}: {}", core::JobStateName(from), core::JobStateName(*to), why), draft.at.wall_ms);
  ArmWork(work);
}

void Scheduler::AddEvent(Draft& draft, WorkEntry& work, int level, std::string type, std::string message,
                         int64_t time_ms) {
  EventRow event{.work_uid = work.row.uid,
                 .sequence = ++work.row.sequence,
                 .time_ms = time_ms,
                 .level = level,
                 .type = std::move(type),
                 .message = std::move(message),
                 .attempt = work.row.attempt};
  draft.touched_works.insert(work.row.uid);
  WatchItem item;
  item.kind = event.type == "STATE_CHANGED" ? WatchItem::Kind::kState : WatchItem::Kind::kEvent;
  item.sequence = event.sequence;
  item.event = event;
  if (item.kind == WatchItem::Kind::kState) {
    auto row = std::make_shared<WorkRow>(work.row);  // shared by all watchers of the work
    ++row->version;                                  // as this transition will write it
    item.row = std::move(row);
  }
  Publication& publication = draft.publications[work.row.uid];
  publication.work_uid = work.row.uid;
  publication.items.push_back(std::move(item));
  draft.extra.push_back(server::AddEvent{std::move(event)});
}

void Scheduler::Enqueue(WorkEntry& work, MonotonicTime now) {
  if (now >= work.not_before) {
    waiting_.Add(work.row.uid, work.row.priority, work.place);
    dispatch_due_ = true;
  }
  ArmWork(work);
}

void Scheduler::ArmWork(const WorkEntry& work) {
  if (const auto deadline = WorkDeadline(work)) {
    deadlines_.Push(*deadline, Deadlines::Kind::kWork, work.row.uid);
  }
}

std::optional<MonotonicTime> Scheduler::WorkDeadline(const WorkEntry& work) const {
  const WorkRow& row = work.row;
  if (core::IsTerminal(row.state)) return std::nullopt;
  MonotonicTime next = MonotonicTime::max();
  const auto in = [&work](int64_t ms) { return work.counted + std::chrono::milliseconds(std::max<int64_t>(ms, 0)); };
  if (row.max_total_ms > 0 && core::NextState(row.state, JobEvent::kTimedOut)) {
    next = std::min(next, in(row.max_total_ms - row.total_ms));
  }
  if (row.max_queue_ms > 0 && row.state == JobState::kQueued) {
    next = std::min(next, in(row.max_queue_ms - row.queued_ms));
  }
  if (row.state == JobState::kQueued && !work.told_of_workers) next = std::min(next, in(TellAfterMs() - row.queued_ms));
  if (row.state == JobState::kRecovering) next = std::min(next, work.not_before);
  if (row.state == JobState::kQueued && !waiting_.Contains(row.uid)) next = std::min(next, work.not_before);
  if (next == MonotonicTime::max()) return std::nullopt;
  return next;
}

void Scheduler::WorkDue(Draft& draft, WorkEntry& work) {
  const auto deadline = WorkDeadline(work);
  if (!deadline) return;
  if (*deadline > draft.at.now) {
    deadlines_.Push(*deadline, Deadlines::Kind::kWork, work.row.uid);
    return;
  }
  Count(work, draft.at.now);
  const WorkRow& row = work.row;
  if (row.max_total_ms > 0 && row.total_ms >= row.max_total_ms && core::NextState(row.state, JobEvent::kTimedOut)) {
    const Failure failure{4, "TOTAL_TIMEOUT", fmt::format("not done within max_total_seconds = {:.1f}",
                                                          static_cast<double>(row.max_total_ms) / 1000)};
    EndWork(draft, work, JobEvent::kTimedOut, TerminationReason::kTotalTimeout, failure);
    return;
  }
  if (row.max_queue_ms > 0 && row.state == JobState::kQueued && row.queued_ms >= row.max_queue_ms) {
    const Failure failure{4, "QUEUE_TIMEOUT", fmt::format("no free slots within max_queue_seconds = {:.1f}",
                                                          static_cast<double>(row.max_queue_ms) / 1000)};
    EndWork(draft, work, JobEvent::kTimedOut, TerminationReason::kQueueTimeout, failure);
    return;
  }
  if (row.state == JobState::kQueued && !work.told_of_workers && row.queued_ms >= TellAfterMs()) TellOfWorkers(draft, work);
  if (row.state == JobState::kRecovering) Apply(draft, work, JobEvent::kRetryDue, "trying again");
  if (row.state == JobState::kQueued) Enqueue(work, draft.at.now);
}

std::optional<MonotonicTime> Scheduler::LeaseDeadline(const LeaseEntry& lease) const {
  MonotonicTime next = lease.renewed + config_.timing.lease;
  const WorkEntry& work = works_.at(lease.row.work_uid);
  if (work.row.max_attempt_ms > 0 && lease.row.stop == StopReason::kNone) {
    const int64_t left = std::max<int64_t>(work.row.max_attempt_ms - lease.row.running_ms, 0);
    next = std::min(next, lease.counted + std::chrono::milliseconds(left));
  }
  return next;
}

void Scheduler::LeaseDue(Draft& draft, LeaseEntry& lease) {
  const std::string uid = lease.row.id.uid;
  if (lease.renewed + config_.timing.lease <= draft.at.now) {
    const Failure failure{14, "LEASE_EXPIRED", fmt::format("worker {} was not heard of for {:.1f} s", lease.row.worker,
                                                           std::chrono::duration<double>(config_.timing.lease).count())};
    ++totals_.expired_total;
    EndLease(draft, uid, TerminationReason::kWorkerLost, failure, /*confirmed=*/false);
    return;
  }
  const auto passed = WholeMillis(draft.at.now - lease.counted);
  lease.counted += passed;
  lease.row.running_ms += passed.count();
  const int64_t limit = works_.at(lease.row.work_uid).row.max_attempt_ms;
  if (limit > 0 && lease.row.running_ms >= limit) StopGang(draft, works_.at(lease.row.work_uid), StopReason::kTimeout);
  const auto still = leases_.find(uid);  // stopping may have ended it
  if (still != leases_.end()) deadlines_.Push(*LeaseDeadline(still->second), Deadlines::Kind::kLease, uid);
}

void Scheduler::WorkerDue(Draft& draft, const std::string& name) {
  const auto found = workers_.find(name);
  if (found == workers_.end()) return;
  WorkerEntry& worker = found->second;
  const bool lost = worker.row.state == WorkerState::kLost;
  const MonotonicTime deadline = worker.seen + (lost ? kForgetWorkerAfter : config_.timing.lease);
  if (deadline > draft.at.now) {
    deadlines_.Push(deadline, Deadlines::Kind::kWorker, name);
    return;
  }
  if (!lost) {
    worker.row.state = WorkerState::kLost;
    draft.touched_workers.insert(name);
    deadlines_.Push(worker.seen + kForgetWorkerAfter, Deadlines::Kind::kWorker, name);
  } else if (worker.leases.empty()) {
    draft.touched_workers.erase(name);
    draft.extra.push_back(DeleteWorker{name});
    workers_.erase(found);
  }
}

void Scheduler::StopLease(Draft& draft, LeaseEntry& lease, StopReason reason) {
  if (Strength(reason) <= Strength(lease.row.stop)) return;
  lease.row.stop = reason;
  draft.touched_leases.insert(lease.row.id.uid);
  draft.wake.insert(lease.row.worker);
  if (lease.handed_out) return;
  // It never left this process: nobody has to be asked.
  const AttemptEnd end = EndOf(reason);
  EndLease(draft, lease.row.id.uid, end.reason, end.failure, /*confirmed=*/true);
}

LeaseRow Scheduler::DropLease(Draft& draft, LeaseEntry& lease) {
  LeaseRow row = lease.row;
  WorkerEntry& worker = workers_.at(row.worker);
  for (const std::string& slot : row.slots) worker.used.erase(slot);
  worker.leases.erase(row.id.uid);
  WorkEntry& work = works_.at(row.work_uid);
  work.leases.erase(row.first_rank);
  if (row.Leads()) work.rendezvous.clear();
  draft.touched_leases.erase(row.id.uid);
  draft.ended_leases.insert(row.id.uid);
  draft.wake.insert(row.worker);
  leases_.erase(row.id.uid);
  dispatch_due_ = true;
  return row;
}

void Scheduler::EndLease(Draft& draft, const std::string& lease_uid, TerminationReason reason, const Failure& failure,
                         bool confirmed) {
  LeaseEntry& lease = leases_.at(lease_uid);
  const MonotonicTime quiet_until = confirmed ? draft.at.now : lease.renewed + config_.timing.redispatch;
  const LeaseRow row = DropLease(draft, lease);
  WorkEntry& work = works_.at(row.work_uid);
  work.not_before = std::max(work.not_before, quiet_until);
  if (row.Leads()) work.progress.clear();
  const bool timed_out = row.stop == StopReason::kTimeout && reason != TerminationReason::kWorkerLost;
  const AttemptEnd end{timed_out ? TerminationReason::kAttemptTimeout : reason, failure};
  const bool well = !row.Leads() && reason == TerminationReason::kDone;
  if (!well && (!work.end || TellsMore(end, *work.end))) work.end = end;
  if (work.leases.empty()) {
    // A last part that ended well was stopped like the leading one, which is over.
    const AttemptEnd last = std::exchange(work.end, std::nullopt).value_or(EndOf(row.stop));
    if (work.row.committed_lease.empty()) ++attempts_ended_[last.reason];
    EndAttempt(draft, work, row.start_checkpoint_step, last);
  } else if (!well) {
    AfterPart(draft, work, row, end.reason);
  }
}

void Scheduler::EndAttempt(Draft& draft, WorkEntry& work, int64_t start_checkpoint_step, const AttemptEnd& end) {
  const auto& [reason, failure] = end;
  if (core::IsTerminal(work.row.state)) {
    draft.ended_works.push_back(work.row.uid);
    return;
  }
  if (work.row.state == JobState::kCancelling) {
    EndWork(draft, work, JobEvent::kAttemptEnded, TerminationReason::kCancelledByUser, {});
    return;
  }
  const RetryDecision decision = AfterAttempt(config_, reason, start_checkpoint_step, &work.row);
  if (decision.give_up) {
    EndWork(draft, work, JobEvent::kGivenUp, reason, failure);
    return;
  }
  if (decision.hold) {
    work.row.reason = reason;
    work.row.failure = failure;
    Apply(draft, work, JobEvent::kHeld, Describe(reason, failure));
    return;
  }
  if (reason != TerminationReason::kPausedByUser) ++totals_.recoveries_total;
  work.row.reason = work.row.state == JobState::kPausing ? TerminationReason::kPausedByUser : reason;
  work.row.failure = failure;
  Apply(draft, work, JobEvent::kAttemptEnded, Describe(reason, failure));
  if (work.row.state != JobState::kRecovering) return;
  work.not_before = std::max(work.not_before, draft.at.now + decision.wait);
  if (work.not_before <= draft.at.now) {
    Apply(draft, work, JobEvent::kRetryDue, "trying again");
    Enqueue(work, draft.at.now);
  }
  ArmWork(work);
}

void Scheduler::EndWork(Draft& draft, WorkEntry& work, JobEvent event, TerminationReason reason,
                        const Failure& failure) {
  waiting_.Remove(work.row.uid);
  work.row.reason = reason;
  work.row.failure = failure;
  work.row.end_ms = draft.at.wall_ms;
  Apply(draft, work, event, Describe(reason, failure));
  draft.publications[work.row.uid].last = true;
  draft.ended_works.push_back(work.row.uid);
  StopGang(draft, work, event == JobEvent::kCommitted ? StopReason::kGangEnded : StopReason::kTimeout);
}

}  // namespace sbora::server
