// The leases of one gang: they start together, stop together, and the last one to end ends the attempt. A gang on one worker
// has one lease, and little of this concerns it.
#include <algorithm>
#include <utility>

#include "server/scheduler/scheduler.h"

namespace sbora::server {

void Scheduler::StopGang(Draft& draft, WorkEntry& work, StopReason reason) {
  const std::map<int32_t, std::string> leases = work.leases;  // stopping one may end it, and others with it
  for (const auto& [first_rank, uid] : leases) {
    const auto lease = leases_.find(uid);
    if (lease != leases_.end()) StopLease(draft, lease->second, reason);
  }
}

void Scheduler::AfterPart(Draft& draft, WorkEntry& work, const LeaseRow& part, core::TerminationReason reason) {
  for (const auto& [first_rank, uid] : work.leases) {
    LeaseEntry& lease = leases_.at(uid);
    // Where the attempt began is what the leading lease knows of it: it leaves that to the others.
    if (!part.Leads() || lease.row.start_checkpoint_step == part.start_checkpoint_step) continue;
    lease.row.start_checkpoint_step = part.start_checkpoint_step;
    draft.touched_leases.insert(uid);
  }
  if (!core::IsTerminal(work.row.state)) {
    // A restart before the last lease is over finds it here.
    work.row.reason = work.end->reason;
    work.row.failure = work.end->failure;
    draft.touched_works.insert(work.row.uid);
  }
  StopGang(draft, work, StopAfterPart(reason));
}

void Scheduler::LoadGang(WorkEntry& work, Moment at) {
  const bool ended = std::any_of(work.leases.begin(), work.leases.end(), [this](const auto& item) SBORA_REQUIRES(mutex_) {
    return leases_.at(item.second).row.stop == StopReason::kGangEnded;
  });
  if (!ended || core::IsTerminal(work.row.state)) return;
  work.end = AttemptEnd{work.row.reason, work.row.failure};
  // It may be a lease that ran out just before the restart.
  work.not_before = at.now + (config_.timing.redispatch - config_.timing.lease);
}

void Scheduler::TakeMeeting(Draft& draft, WorkEntry& work, LeaseEntry& lease, const AttemptReport& report) {
  lease.ready = report.ready || report.phase != AttemptPhase::kPreparing;
  if (lease.row.Leads()) work.rendezvous = report.rendezvous;
  const std::string meeting = MeetingOf(work);
  if (meeting.empty()) return;
  for (const auto& [first_rank, uid] : work.leases) {
    const LeaseEntry& part = leases_.at(uid);
    if (part.rendezvous_told != meeting) draft.wake.insert(part.row.worker);
  }
}

std::string Scheduler::MeetingOf(const WorkEntry& work) const {
  size_t ranks = 0;
  for (const auto& [first_rank, uid] : work.leases) {
    const LeaseEntry& lease = leases_.at(uid);
    if (!lease.ready) return {};
    ranks += lease.row.slots.size();
  }
  const bool complete = work.leases.size() > 1 && ranks == static_cast<size_t>(work.row.ranks);
  return complete ? work.rendezvous : std::string();
}

}  // namespace sbora::server
