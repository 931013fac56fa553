#include "server/scheduler/stop_policy.h"

namespace sbora::server {

using core::TerminationReason;

namespace {

constexpr std::string_view kGangEndedReason = "GANG_ENDED";

/// From the cause of a gang's end, in steps.
int Distance(const AttemptEnd& end) {
  if (end.failure.reason == kGangEndedReason) return 2;
  return end.failure.reason == "RANK_LOST" ? 1 : 0;
}

}  // namespace

int Strength(StopReason reason) {
  switch (reason) {
    case StopReason::kNone: return 0;
    case StopReason::kPreempt: return 1;
    case StopReason::kPause: return 2;
    case StopReason::kGangEnded: return 3;
    case StopReason::kTimeout: return 4;
    case StopReason::kCancel: return 5;
    case StopReason::kFenced: return 6;
  }
  return 0;
}

AttemptEnd EndOf(StopReason stop) {
  switch (stop) {
    case StopReason::kNone:
    case StopReason::kFenced: return {TerminationReason::kWorkerLost, {}};
    case StopReason::kPreempt: return {TerminationReason::kPreempted, {}};
    case StopReason::kPause: return {TerminationReason::kPausedByUser, {}};
    case StopReason::kTimeout: return {TerminationReason::kAttemptTimeout, {}};
    case StopReason::kCancel: return {TerminationReason::kCancelledByUser, {}};
    case StopReason::kGangEnded:
      return {TerminationReason::kWorkerLost, {10, std::string(kGangEndedReason), "another part of the gang has ended"}};
  }
  return {TerminationReason::kInternal, {}};
}

StopReason StopAfterPart(TerminationReason reason) {
  if (reason == TerminationReason::kPreempted) return StopReason::kPreempt;
  return reason == TerminationReason::kPausedByUser ? StopReason::kPause : StopReason::kGangEnded;
}

bool TellsMore(const AttemptEnd& end, const AttemptEnd& known) { return Distance(end) < Distance(known); }

}  // namespace sbora::server
