// What agents report, what they are told, and the commit of an attempt.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "common/status_macros.h"
#include "server/scheduler/scheduler.h"

namespace sbora::server {

using core::JobEvent;
using core::JobState;
using core::TerminationReason;

namespace {

constexpr size_t kFormerInstances = 8;
constexpr size_t kRecentCommits = 1024;
/// Answers that hold a start may get lost; a start that was sent this often and never taken up is given back.
constexpr int kMaxOffers = 10;
constexpr int kCheckpointsKept = 2;  // the newest may turn out damaged

Status Fenced(const core::LeaseId& lease, std::string_view why) {
  return FailedPrecondition("LEASE_FENCED", fmt::format("lease {} of epoch {} may not write: {}; drop the attempt",
                                                        lease.uid, lease.epoch, why));
}

Status Replaced(const WorkerRow& worker) {
  return FailedPrecondition("WORKER_REPLACED", fmt::format("worker {} has been started again as instance {}; two agents "
                                                           "must not share a name",
                                                           worker.name, worker.instance_uuid));
}

/// An answer leaves that starts or stops these.
void MarkNamed(const std::vector<LeaseEntry*>& leases, int64_t sequence, MonotonicTime now) {
  for (LeaseEntry* lease : leases) {
    lease->told_sequence = sequence;
    lease->stop_told = lease->published_stop;
    if (lease->published_stop == StopReason::kNone) {
      ++lease->offers;
      lease->handed_out = true;
      lease->renewed = now;
    }
  }
}

}  // namespace

LeaseEntry* Scheduler::FindLease(const core::LeaseId& id) {
  const auto found = leases_.find(id.uid);
  return found != leases_.end() && found->second.row.id.epoch == id.epoch ? &found->second : nullptr;
}

StatusOr<WorkerEntry*> Scheduler::TakeWorker(Draft& draft, const SyncRequest& request) {
  const bool fresh = !workers_.contains(request.worker);
  WorkerEntry& worker = workers_[request.worker];
  if (fresh) {
    worker.row.name = request.worker;
    worker.row.instance_uuid = request.instance_uuid;
    draft.touched_workers.insert(request.worker);
    deadlines_.Push(draft.at.now + config_.timing.lease, Deadlines::Kind::kWorker, request.worker);
  }
  const auto& former = worker.former_instances;
  if (std::find(former.begin(), former.end(), request.instance_uuid) != former.end()) {
    return Replaced(worker.row);
  }
  if (worker.row.instance_uuid != request.instance_uuid) {
    // The agent is a new process: the old one and, by parent death, its gangs are gone.
    const std::set<std::string> old = worker.leases;
    for (const std::string& uid : old) {
      const Failure failure{14, "WORKER_RESTARTED", fmt::format("worker {} was started again", request.worker)};
      EndLease(draft, uid, TerminationReason::kWorkerLost, failure, /*confirmed=*/true);
    }
    worker.former_instances.push_back(worker.row.instance_uuid);
    if (worker.former_instances.size() > kFormerInstances) worker.former_instances.pop_front();
    worker.row.instance_uuid = request.instance_uuid;
    worker.row.drain_asked = false;
    worker.drain_told = false;
    worker.sequence = worker.acknowledged = 0;
    draft.touched_workers.insert(request.worker);
  }
  return &worker;
}

void Scheduler::TakeSlots(Draft& draft, WorkerEntry& worker, const SyncRequest& request) {
  const WorkerRow before = worker.row;
  worker.seen = draft.at.now;
  worker.agent_draining = request.draining;
  worker.row.last_seen_ms = draft.at.wall_ms;
  worker.row.version = request.version;
  worker.row.host = request.host;
  worker.row.slots_total = static_cast<int32_t>(request.slots.size());
  worker.row.gpus = request.gpus;
  const bool draining = request.draining || worker.row.drain_asked;
  worker.row.state = draining ? WorkerState::kDraining : WorkerState::kReady;
  if (before.state == WorkerState::kLost) {
    deadlines_.Push(draft.at.now + config_.timing.lease, Deadlines::Kind::kWorker, worker.row.name);
  }
  const bool same_place = worker.slots.size() == request.slots.size() && worker.gang_address == request.gang_address;
  if (!same_place || before.state != worker.row.state) dispatch_due_ = true;
  worker.slots = request.slots;
  worker.gang_address = request.gang_address;
  WorkerRow same_time = worker.row;
  same_time.last_seen_ms = before.last_seen_ms;
  if (!(same_time == before)) draft.touched_workers.insert(worker.row.name);
}

void Scheduler::TakeItems(Draft& draft, WorkEntry& work, LeaseEntry& lease, const std::vector<ReportItem>& items) {
  for (const ReportItem& item : items) {
    if (item.sequence <= lease.row.acknowledged_item) continue;  // a repeat
    lease.row.acknowledged_item = item.sequence;
    draft.touched_leases.insert(lease.row.id.uid);
    if (core::IsTerminal(work.row.state)) continue;  // its row is written for the last time
    if (!lease.row.Leads() && !std::holds_alternative<EventItem>(item.item)) continue;
    if (const auto* metric = std::get_if<MetricItem>(&item.item)) {
      const MetricRow row{.work_uid = work.row.uid,
                          .attempt = lease.row.attempt,
                          .step = metric->step,
                          .sequence = ++work.row.sequence,
                          .payload = metric->payload};
      draft.touched_works.insert(work.row.uid);
      Publication& publication = draft.publications[work.row.uid];
      publication.work_uid = work.row.uid;
      WatchItem watched;
      watched.kind = WatchItem::Kind::kMetric;
      watched.sequence = row.sequence;
      watched.metric = row;
      publication.items.push_back(std::move(watched));
      draft.extra.push_back(PutMetric{row});
    } else if (const auto* event = std::get_if<EventItem>(&item.item)) {
      // Agents cannot speak for the state machine.
      const std::string type = event->type == "STATE_CHANGED" ? "AGENT_STATE" : event->type;
      AddEvent(draft, work, event->level, type, event->message, event->time_ms);
    } else {
      TakeCheckpoint(draft, work, lease, std::get<CheckpointItem>(item.item));
    }
  }
}

void Scheduler::TakeCheckpoint(Draft& draft, WorkEntry& work, LeaseEntry& lease, const CheckpointItem& checkpoint) {
  WorkRow& row = work.row;
  draft.extra.push_back(PutCheckpoint{CheckpointRow{.work_uid = row.uid,
                                                    .step = checkpoint.step,
                                                    .attempt = lease.row.attempt,
                                                    .create_ms = draft.at.wall_ms,
                                                    .files = checkpoint.files,
                                                    .validation_loss = checkpoint.validation_loss,
                                                    .object_uids = checkpoint.object_uids}});
  draft.extra.push_back(PruneCheckpoints{.work_uid = row.uid, .keep = kCheckpointsKept});
  // Steps only rise in an attempt: a lower one than it was handed says that it could not use that, and where it began.
  if (checkpoint.step < lease.row.start_checkpoint_step) {
    lease.row.start_checkpoint_step = work.older_checkpoint_step <= checkpoint.step ? work.older_checkpoint_step : -1;
  }
  if (row.checkpoint_step < checkpoint.step) {
    work.older_checkpoint_step = row.checkpoint_step;
    work.older_checkpoint_files = std::move(row.checkpoint_files);
  } else if (work.older_checkpoint_step >= checkpoint.step) {
    work.older_checkpoint_step = -1;
    work.older_checkpoint_files.clear();
  }
  row.checkpoint_step = checkpoint.step;
  row.checkpoint_files = checkpoint.files;
  AddEvent(draft, work, 1, "CHECKPOINT_SAVED", fmt::format("checkpoint of step {}", checkpoint.step), draft.at.wall_ms);
}

void Scheduler::TakeAttempt(Draft& draft, LeaseEntry& lease, const AttemptReport& report) {
  WorkEntry& work = works_.at(lease.row.work_uid);
  lease.reported = lease.handed_out = true;
  lease.renewed = draft.at.now;
  TakeItems(draft, work, lease, report.items);
  if (report.phase == AttemptPhase::kEnded) {
    EndLease(draft, lease.row.id.uid, report.reason, report.failure, /*confirmed=*/true);
    return;
  }
  TakeMeeting(draft, work, lease, report);
  if (!lease.row.Leads()) return;
  const bool running = report.phase == AttemptPhase::kRunning || report.phase == AttemptPhase::kCommitting;
  if (running && work.row.state == JobState::kStarting) {
    work.row.resolved_device = report.device;
    Apply(draft, work, JobEvent::kStarted, fmt::format("running on {}", report.device.empty() ? "?" : report.device));
  }
  if (report.progress.empty() || report.progress == work.progress || core::IsTerminal(work.row.state)) return;
  work.progress = report.progress;
  Publication& publication = draft.publications[work.row.uid];
  publication.work_uid = work.row.uid;
  WatchItem item;
  item.kind = WatchItem::Kind::kProgress;
  item.sequence = work.row.sequence;
  item.progress = report.progress;
  publication.items.push_back(std::move(item));
}

Status Scheduler::Synchronize(const SyncRequest& request, Moment at, Done done) {
  MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(Enter(at));
  Draft draft(at);
  SBORA_ASSIGN_OR_RETURN(WorkerEntry* const worker, TakeWorker(draft, request));
  if (request.acknowledged_sequence < worker->acknowledged) {
    Leave(std::move(draft), std::move(done));  // a late copy of an older call: it knows nothing new
    return OkStatus();
  }
  worker->acknowledged = request.acknowledged_sequence;
  worker->sequence = std::max(worker->sequence, request.acknowledged_sequence);
  TakeSlots(draft, *worker, request);

  std::set<std::string> listed;
  bool unknown_gang = false;
  for (const AttemptReport& report : request.attempts) {
    listed.insert(report.lease.uid);
    LeaseEntry* const lease = FindLease(report.lease);
    if (lease != nullptr && lease->row.worker == request.worker) {
      TakeAttempt(draft, *lease, report);
    } else if (report.phase != AttemptPhase::kEnded && report.phase != AttemptPhase::kCommitting) {
      unknown_gang = true;
    }
  }
  if (unknown_gang != worker->unknown_gang) dispatch_due_ = true;
  worker->unknown_gang = unknown_gang;

  const std::set<std::string> held = worker->leases;
  for (const std::string& uid : held) {
    LeaseEntry& lease = leases_.at(uid);
    if (listed.contains(uid)) continue;
    const bool never_taken = lease.row.stop != StopReason::kNone && lease.told_sequence > 0 &&
                             request.acknowledged_sequence >= lease.told_sequence;
    if (!lease.reported && !never_taken) continue;
    const StopReason stop = lease.row.stop;
    const bool asked = stop == StopReason::kPreempt || stop == StopReason::kPause || stop == StopReason::kGangEnded;
    AttemptEnd end = EndOf(asked ? stop : StopReason::kNone);
    if (stop != StopReason::kGangEnded) {
      end.failure = {14, "ATTEMPT_LOST", fmt::format("worker {} does not hold the attempt any more", request.worker)};
    }
    EndLease(draft, uid, end.reason, end.failure, /*confirmed=*/true);
  }
  if (worker->row.state == WorkerState::kDraining) {
    const std::set<std::string> left = worker->leases;
    for (const std::string& uid : left) StopGang(draft, works_.at(leases_.at(uid).row.work_uid), StopReason::kPreempt);
  }
  Leave(std::move(draft), std::move(done));
  return OkStatus();
}

StartDecision Scheduler::StartOf(const LeaseEntry& lease) const {
  const WorkEntry& work = works_.at(lease.row.work_uid);
  const bool part = lease.row.slots.size() < static_cast<size_t>(work.row.ranks);
  return {.lease = lease.row.id,
          .work_uid = work.row.uid,
          .resource = work.row.name,
          .project = work.row.project,
          .attempt = lease.row.attempt,
          .slots = lease.row.slots,
          .payload = work.payload,
          .checkpoint_step = work.row.checkpoint_step,
          .checkpoint_files = work.row.checkpoint_files,
          .older_checkpoint_files = work.older_checkpoint_files,
          .first_rank = lease.row.first_rank,
          .world_size = part ? work.row.ranks : 0};
}

StatusOr<std::optional<SyncResponse>> Scheduler::Answer(const SyncRequest& request, bool force, Moment at) {
  MutexLock lock(mutex_);
  const auto found = workers_.find(request.worker);
  if (!serving_ || found == workers_.end()) {
    return Unavailable("NOT_SERVING", "the report was taken in by memory that is gone; report again");
  }
  WorkerEntry& worker = found->second;
  if (worker.row.instance_uuid != request.instance_uuid) return Replaced(worker.row);
  SyncResponse answer;
  std::set<std::string> listed;
  // A new instance is told at once that it is known; reports are acknowledged at once, because the agent keeps them.
  bool news = worker.sequence == 0 || (worker.row.drain_asked && !worker.drain_told);
  for (const AttemptReport& report : request.attempts) {
    listed.insert(report.lease.uid);
    LeaseEntry* const lease = FindLease(report.lease);
    if (lease != nullptr && lease->row.worker == request.worker) {
      answer.renewed.push_back({.lease = report.lease,
                                .acknowledged_item = lease->published_item,
                                .rendezvous = MeetingOf(works_.at(lease->row.work_uid))});
      const std::string& meeting = answer.renewed.back().rendezvous;
      news = news || !report.items.empty() || (!meeting.empty() && meeting != lease->rendezvous_told);
    } else if (ending_leases_.contains(report.lease.uid)) {
      continue;  // neither renewed nor fenced before its end is durable
    } else if (report.phase == AttemptPhase::kEnded) {
      news = true;  // its absence is the acknowledgement
    } else if (std::find(recent_commits_.begin(), recent_commits_.end(), report.lease.uid) == recent_commits_.end()) {
      answer.stop.push_back({.lease = report.lease, .reason = StopReason::kFenced});
      news = news || report.phase != AttemptPhase::kStopping;
    }
  }
  std::vector<LeaseEntry*> named;
  size_t task_bytes = 0;
  for (const std::string& uid : worker.leases) {
    LeaseEntry& lease = leases_.at(uid);
    if (!lease.published) continue;
    if (lease.published_stop != StopReason::kNone) {
      answer.stop.push_back({.lease = lease.row.id, .reason = lease.published_stop});
      news = news || lease.stop_told != lease.published_stop;
      named.push_back(&lease);
    } else if (!listed.contains(uid) && !lease.reported && lease.row.stop == StopReason::kNone && lease.offers < kMaxOffers) {
      const size_t bytes = works_.at(lease.row.work_uid).payload->task.size();
      if (!answer.start.empty() && task_bytes + bytes > kMaxTaskBytes) continue;  // goes with a later answer
      task_bytes += bytes;
      answer.start.push_back(StartOf(lease));
      news = news || lease.offers == 0;
      named.push_back(&lease);
    }
  }
  if (!news && !force) return std::optional<SyncResponse>();
  answer.sequence = ++worker.sequence;
  answer.drain = worker.row.drain_asked;
  worker.drain_told = worker.row.drain_asked;
  for (const RenewDecision& renewed : answer.renewed) leases_.at(renewed.lease.uid).rendezvous_told = renewed.rendezvous;
  MarkNamed(named, answer.sequence, at.now);
  return std::optional<SyncResponse>(std::move(answer));
}

Status Scheduler::CheckCommit(const LeaseEntry& lease) {
  const WorkRow& work = works_.at(lease.row.work_uid).row;
  std::string why;
  if (!lease.row.Leads()) {
    why = fmt::format("its ranks begin at {}, and the part of the gang with rank 0 commits", lease.row.first_rank);
  } else if (!core::MayCommit(work.state)) {
    why = fmt::format("{} is {}", work.name, core::JobStateName(work.state));
  }
  if (why.empty()) return OkStatus();
  ++totals_.fenced_total;
  return Fenced(lease.row.id, why);
}

StatusOr<Work> Scheduler::CheckLease(const core::LeaseId& id, Moment at) {
  MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(Enter(at));
  const LeaseEntry* const lease = FindLease(id);
  if (lease == nullptr) {
    ++totals_.fenced_total;
    return Fenced(id, "it is over");
  }
  SBORA_RETURN_IF_ERROR(CheckCommit(*lease));
  const WorkEntry& work = works_.at(lease->row.work_uid);
  return Work{work.row, work.payload};
}

Status Scheduler::CommitAttempt(const CommitRequest& request, Moment at, Done done) {
  MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(Enter(at));
  Draft draft(at);
  LeaseEntry* const lease = FindLease(request.lease);
  if (lease == nullptr) {
    if (std::find(recent_commits_.begin(), recent_commits_.end(), request.lease.uid) != recent_commits_.end()) {
      Leave(std::move(draft), std::move(done));  // a repeat: answered behind the first
      return OkStatus();
    }
    ++totals_.fenced_total;
    return Fenced(request.lease, "it is over");
  }
  if (lease->row.worker != request.worker || lease->row.instance_uuid != request.instance_uuid) {
    ++totals_.fenced_total;
    return Fenced(request.lease, fmt::format("it is worker {}'s, instance {}", lease->row.worker, lease->row.instance_uuid));
  }
  SBORA_RETURN_IF_ERROR(CheckCommit(*lease));
  WorkEntry& work = works_.at(lease->row.work_uid);
  TakeItems(draft, work, *lease, request.items);
  DropLease(draft, *lease);
  work.row.result = request.result;
  work.row.committed_lease = request.lease.uid;
  recent_commits_.push_back(request.lease.uid);
  if (recent_commits_.size() > kRecentCommits) recent_commits_.pop_front();
  ++totals_.committed_total;
  ++attempts_ended_[TerminationReason::kDone];
  EndWork(draft, work, JobEvent::kCommitted, TerminationReason::kDone, {});
  draft.extra.insert(draft.extra.end(), request.resources.begin(), request.resources.end());
  Leave(std::move(draft), std::move(done));
  return OkStatus();
}

StatusOr<WorkerView> Scheduler::DrainWorker(std::string_view name, Moment at, Done done) {
  MutexLock lock(mutex_);
  SBORA_RETURN_IF_ERROR(Enter(at));
  const auto found = workers_.find(name);
  if (found == workers_.end()) {
    return NotFound("WORKER_NOT_FOUND", fmt::format("no worker {} is known; see `workers list`", name));
  }
  WorkerEntry& worker = found->second;
  Draft draft(at);
  if (!worker.row.drain_asked) {
    worker.row.drain_asked = true;
    if (worker.row.state == WorkerState::kReady) worker.row.state = WorkerState::kDraining;
    draft.touched_workers.insert(worker.row.name);
    draft.wake.insert(worker.row.name);
  }
  const std::set<std::string> held = worker.leases;
  for (const std::string& uid : held) StopGang(draft, works_.at(leases_.at(uid).row.work_uid), StopReason::kPreempt);
  Leave(std::move(draft), std::move(done));
  return ViewOf(worker);
}

WorkerView Scheduler::ViewOf(const WorkerEntry& worker) const {
  WorkerView view{.row = worker.row, .slots_used = static_cast<int>(worker.used.size()),
                  .cuda_slots = worker.SlotsOf(DeviceKind::kCuda), .leases = {}};
  for (const std::string& uid : worker.leases) {
    view.leases.push_back(works_.at(leases_.at(uid).row.work_uid).row.name);
  }
  return view;
}

std::vector<WorkerView> Scheduler::ListWorkers() const {
  MutexLock lock(mutex_);
  std::vector<WorkerView> views;
  for (const auto& [name, worker] : workers_) views.push_back(ViewOf(worker));
  return views;
}

}  // namespace sbora::server
