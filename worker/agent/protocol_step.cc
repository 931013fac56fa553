#include "worker/agent/protocol_step.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/ids.h"

namespace sbora::agent {
namespace {

namespace wp = worker::v1;

constexpr size_t kMaxFinished = 1024;

Status CheckLease(const ProtocolState& state, const wp::Lease& lease) {
  if (!IsUuid(lease.id().uid())) {
    return InvalidArgument("BAD_LEASE", fmt::format("the lease's uid \"{}\" is no UUID", lease.id().uid()));
  }
  if (lease.slots().empty()) {
    return InvalidArgument("LEASE_WITHOUT_SLOTS",
                           fmt::format("lease {} of {} names no slots; it needs at least one", lease.id().uid(),
                                       lease.resource()));
  }
  for (const std::string& slot : lease.slots()) {
    if (!state.slot_ids.contains(slot)) {
      return InvalidArgument("UNKNOWN_SLOT", fmt::format("the lease names slot {}, which this worker does not have", slot));
    }
  }
  if (lease.world_size() > 0 &&
      (lease.first_rank() < 0 || lease.first_rank() > lease.world_size() - lease.slots_size())) {
    return InvalidArgument("BAD_LEASE", fmt::format("lease {} has {} ranks from {} on, of {} in all", lease.id().uid(),
                                                    lease.slots_size(), lease.first_rank(), lease.world_size()));
  }
  if (lease.task().kind_case() == wp::Task::KIND_NOT_SET || lease.task().has_quantize()) {
    return Unimplemented("UNKNOWN_TASK", "this worker does not know the task; upgrade it");
  }
  return OkStatus();
}

Duration FromSeconds(double seconds, Duration fallback) {
  if (!(seconds > 0)) return fallback;
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(std::min(seconds, 1e6)));
}

}  // namespace

void ProtocolState::NoteFinished(std::string lease_uid) {
  finished.push_back(std::move(lease_uid));
  if (finished.size() > kMaxFinished) finished.pop_front();
}

Decision Step(ProtocolState& state, const std::vector<HeldAttempt>& reported, const wp::SynchronizeResponse& answer) {
  Decision decision;
  state.acknowledged_sequence = std::max(state.acknowledged_sequence, answer.sequence());
  decision.drain = answer.drain();
  const int64_t wait_nanos = answer.next_call_after().seconds() * 1'000'000'000 + answer.next_call_after().nanos();
  decision.next_call_after = Duration(std::clamp<int64_t>(wait_nanos, 0, 5'000'000'000));

  std::set<std::string> held, busy, renewed;
  for (const HeldAttempt& attempt : reported) {
    held.insert(attempt.lease_uid);
    if (!attempt.reported_ended) busy.insert(attempt.slots.begin(), attempt.slots.end());
  }
  for (const wp::RenewedLease& lease : answer.renewed()) {
    const auto found = std::find_if(reported.begin(), reported.end(), [&](const HeldAttempt& attempt) {
      return attempt.lease_uid == lease.id().uid() && attempt.epoch == lease.id().epoch();
    });
    if (found == reported.end()) continue;
    renewed.insert(found->lease_uid);
    decision.renew.push_back({.lease_uid = found->lease_uid,
                              .acknowledged_item = lease.acknowledged_item(),
                              .rendezvous = lease.rendezvous()});
  }
  for (const wp::StopLease& stop : answer.stop()) {
    if (!held.contains(stop.id().uid())) continue;
    decision.stop.push_back({.lease_uid = stop.id().uid(), .order = OrderOf(stop.reason())});
  }
  for (const HeldAttempt& attempt : reported) {
    if (attempt.reported_ended && !renewed.contains(attempt.lease_uid)) decision.forget.push_back(attempt.lease_uid);
  }
  for (const wp::Lease& lease : answer.start()) {
    const std::string& uid = lease.id().uid();
    if (held.contains(uid) || std::find(state.finished.begin(), state.finished.end(), uid) != state.finished.end()) continue;
    if (Status checked = CheckLease(state, lease); !checked.ok()) {
      held.insert(uid);
      decision.refuse.push_back({.lease = lease, .why = std::move(checked)});
      continue;
    }
    if (state.draining || decision.drain) continue;
    const bool free = std::none_of(lease.slots().begin(), lease.slots().end(),
                                   [&](const std::string& slot) { return busy.contains(slot); });
    if (!free) continue;
    held.insert(uid);
    busy.insert(lease.slots().begin(), lease.slots().end());
    decision.start.push_back(lease);
  }
  return decision;
}

StopOrder OrderOf(wp::StopLease::Reason reason) {
  if (reason == wp::StopLease::REASON_CANCEL) return StopOrder::kCancel;
  if (reason == wp::StopLease::REASON_PAUSE) return StopOrder::kPause;
  if (reason == wp::StopLease::REASON_PREEMPT) return StopOrder::kPreempt;
  if (reason == wp::StopLease::REASON_GANG_ENDED) return StopOrder::kGangEnded;
  if (reason == wp::StopLease::REASON_TIMEOUT) return StopOrder::kTimeout;
  return StopOrder::kFenced;
}

Timing TimingOf(const wp::LeaseTiming& timing) {
  const Timing defaults;
  return Timing{.renew_every = FromSeconds(timing.renew_every_seconds(), defaults.renew_every),
                .self_fence = FromSeconds(timing.self_fence_seconds(), defaults.self_fence),
                .hang = FromSeconds(timing.hang_seconds(), defaults.hang)};
}

}  // namespace sbora::agent
