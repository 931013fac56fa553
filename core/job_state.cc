#include "core/job_state.h"

#include <array>

namespace sbora::core {
namespace {

using S = JobState;
using E = JobEvent;

constexpr std::array kStates = {S::kValidating, S::kQueued,     S::kStarting,   S::kRunning, S::kPausing,  S::kPaused,
                                S::kRecovering, S::kCancelling, S::kSucceeded,  S::kFailed,  S::kCancelled};
constexpr std::array kEvents = {E::kValidated, E::kRefused,  E::kGranted,    E::kStarted,     E::kCommitted,   E::kAttemptEnded,
                                E::kHeld,      E::kRetryDue, E::kGivenUp,    E::kPauseAsked,  E::kResumeAsked, E::kCancelAsked,
                                E::kTimedOut};

struct Row {
  S from;
  E event;
  S to;
};

// Everything that is not here has no meaning. The total limit does not run while a job is PAUSED, and a CANCELLING job
// ends as CANCELLED however its gang ended.
constexpr Row kTable[] = {
    {S::kValidating, E::kValidated, S::kQueued},
    {S::kValidating, E::kRefused, S::kFailed},
    {S::kValidating, E::kCancelAsked, S::kCancelled},
    {S::kValidating, E::kTimedOut, S::kFailed},

    {S::kQueued, E::kGranted, S::kStarting},
    {S::kQueued, E::kPauseAsked, S::kPaused},
    {S::kQueued, E::kCancelAsked, S::kCancelled},
    {S::kQueued, E::kTimedOut, S::kFailed},

    {S::kStarting, E::kStarted, S::kRunning},
    {S::kStarting, E::kCommitted, S::kSucceeded},
    {S::kStarting, E::kAttemptEnded, S::kRecovering},
    {S::kStarting, E::kHeld, S::kPaused},
    {S::kStarting, E::kGivenUp, S::kFailed},
    {S::kStarting, E::kPauseAsked, S::kPausing},
    {S::kStarting, E::kCancelAsked, S::kCancelling},
    {S::kStarting, E::kTimedOut, S::kFailed},

    {S::kRunning, E::kCommitted, S::kSucceeded},
    {S::kRunning, E::kAttemptEnded, S::kRecovering},
    {S::kRunning, E::kHeld, S::kPaused},
    {S::kRunning, E::kGivenUp, S::kFailed},
    {S::kRunning, E::kPauseAsked, S::kPausing},
    {S::kRunning, E::kCancelAsked, S::kCancelling},
    {S::kRunning, E::kTimedOut, S::kFailed},

    {S::kPausing, E::kCommitted, S::kSucceeded},
    {S::kPausing, E::kAttemptEnded, S::kPaused},
    {S::kPausing, E::kHeld, S::kPaused},
    {S::kPausing, E::kGivenUp, S::kFailed},
    {S::kPausing, E::kCancelAsked, S::kCancelling},
    {S::kPausing, E::kTimedOut, S::kFailed},

    {S::kPaused, E::kResumeAsked, S::kQueued},
    {S::kPaused, E::kCancelAsked, S::kCancelled},

    {S::kRecovering, E::kRetryDue, S::kQueued},
    {S::kRecovering, E::kPauseAsked, S::kPaused},
    {S::kRecovering, E::kCancelAsked, S::kCancelled},
    {S::kRecovering, E::kTimedOut, S::kFailed},

    {S::kCancelling, E::kAttemptEnded, S::kCancelled},
    {S::kCancelling, E::kGivenUp, S::kCancelled},
};

}  // namespace

std::span<const JobState> AllJobStates() { return kStates; }
std::span<const JobEvent> AllJobEvents() { return kEvents; }

std::optional<JobState> NextState(JobState state, JobEvent event) {
  for (const Row& row : kTable) {
    if (row.from == state && row.event == event) return row.to;
  }
  return std::nullopt;
}

bool IsTerminal(JobState state) { return state == S::kSucceeded || state == S::kFailed || state == S::kCancelled; }

bool MayHoldLease(JobState state) {
  return state == S::kStarting || state == S::kRunning || state == S::kPausing || state == S::kCancelling;
}

bool MayCommit(JobState state) { return NextState(state, E::kCommitted).has_value(); }

bool IsWorthRetrying(TerminationReason reason) {
  return reason != TerminationReason::kInvalidInput && reason != TerminationReason::kNonFinite;
}

bool NeedsAPerson(TerminationReason reason) { return reason == TerminationReason::kNoSpace; }

bool CountsAsAttempt(TerminationReason reason) {
  return reason != TerminationReason::kWorkerLost && reason != TerminationReason::kPreempted &&
         reason != TerminationReason::kPausedByUser;
}

std::string_view JobStateName(JobState state) {
  switch (state) {
    case S::kValidating: return "VALIDATING";
    case S::kQueued: return "QUEUED";
    case S::kStarting: return "STARTING";
    case S::kRunning: return "RUNNING";
    case S::kPausing: return "PAUSING";
    case S::kPaused: return "PAUSED";
    case S::kRecovering: return "RECOVERING";
    case S::kCancelling: return "CANCELLING";
    case S::kSucceeded: return "SUCCEEDED";
    case S::kFailed: return "FAILED";
    case S::kCancelled: return "CANCELLED";
  }
  return "UNKNOWN";
}

std::optional<JobState> ParseJobState(std::string_view name) {
  for (const JobState state : kStates) {
    if (JobStateName(state) == name) return state;
  }
  return std::nullopt;
}

std::string_view JobEventName(JobEvent event) {
  switch (event) {
    case E::kValidated: return "VALIDATED";
    case E::kRefused: return "REFUSED";
    case E::kGranted: return "GRANTED";
    case E::kStarted: return "STARTED";
    case E::kCommitted: return "COMMITTED";
    case E::kAttemptEnded: return "ATTEMPT_ENDED";
    case E::kHeld: return "HELD";
    case E::kRetryDue: return "RETRY_DUE";
    case E::kGivenUp: return "GIVEN_UP";
    case E::kPauseAsked: return "PAUSE_ASKED";
    case E::kResumeAsked: return "RESUME_ASKED";
    case E::kCancelAsked: return "CANCEL_ASKED";
    case E::kTimedOut: return "TIMED_OUT";
  }
  return "UNKNOWN";
}

std::string_view TerminationReasonName(TerminationReason reason) {
  switch (reason) {
    case TerminationReason::kUnspecified: return "UNSPECIFIED";
    case TerminationReason::kDone: return "DONE";
    case TerminationReason::kCancelledByUser: return "CANCELLED_BY_USER";
    case TerminationReason::kInvalidInput: return "INVALID_INPUT";
    case TerminationReason::kNonFinite: return "NON_FINITE";
    case TerminationReason::kOomHost: return "OOM_HOST";
    case TerminationReason::kOomGpu: return "OOM_GPU";
    case TerminationReason::kNoSpace: return "NO_SPACE";
    case TerminationReason::kHang: return "HANG";
    case TerminationReason::kSignal: return "SIGNAL";
    case TerminationReason::kTrainerError: return "TRAINER_ERROR";
    case TerminationReason::kWorkerLost: return "WORKER_LOST";
    case TerminationReason::kPreempted: return "PREEMPTED";
    case TerminationReason::kQueueTimeout: return "QUEUE_TIMEOUT";
    case TerminationReason::kAttemptTimeout: return "ATTEMPT_TIMEOUT";
    case TerminationReason::kTotalTimeout: return "TOTAL_TIMEOUT";
    case TerminationReason::kPausedByUser: return "PAUSED_BY_USER";
    case TerminationReason::kInternal: return "INTERNAL";
  }
  return "UNKNOWN";
}

}  // namespace sbora::core
