/// The life of a piece of work (training job, evaluation job, operation): states, events and the one transition table.
///
///     VALIDATING -> QUEUED -> STARTING -> RUNNING -> SUCCEEDED
///                     ^          |           |
///                     |          +-----+-----+
///                 RECOVERING <---------+  (attempt ended early)   PAUSING -> PAUSED -> QUEUED
///                                         (for want of what only a person can provide: PAUSED at once)
///
/// CANCELLING and PAUSING wait for the lease to end. Pure functions; no clock, no I/O.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace sbora::core {

/// Numbers equal sbora.v1.FineTuningJob.State.
enum class JobState {
  kValidating = 1,
  kQueued = 2,
  kStarting = 3,
  kRunning = 4,
  kPausing = 5,
  kPaused = 6,
  kRecovering = 7,
  kCancelling = 8,
  kSucceeded = 9,
  kFailed = 10,
  kCancelled = 11,
};

enum class JobEvent {
  kValidated,      // the data fits the model
  kRefused,        // the data does not fit
  kGranted,        // a lease was granted
  kStarted,        // the gang reported its first running state
  kCommitted,      // CommitAttempt was accepted
  kAttemptEnded,   // the lease ended without a result; the job may be tried again
  kHeld,           // the lease ended for want of what only a person can provide; the job waits for them
  kRetryDue,       // the back-off is over
  kGivenUp,        // out of attempts, or a failure that a retry cannot mend
  kPauseAsked,
  kResumeAsked,
  kCancelAsked,
  kTimedOut,       // queue or total time limit
};

/// Why a job or an attempt ended. Numbers equal sbora.v1.TerminationReason.
enum class TerminationReason {
  kUnspecified = 0,
  kDone = 1,
  kCancelledByUser = 2,
  kInvalidInput = 3,
  kNonFinite = 4,
  kOomHost = 5,
  kOomGpu = 6,
  kNoSpace = 7,
  kHang = 8,
  kSignal = 9,
  kTrainerError = 10,
  kWorkerLost = 11,
  kPreempted = 12,
  kQueueTimeout = 13,
  kAttemptTimeout = 14,
  kTotalTimeout = 15,
  kPausedByUser = 16,
  kInternal = 17,
};

std::span<const JobState> AllJobStates();
std::span<const JobEvent> AllJobEvents();

/// The state after `event`, or nullopt when the event has no meaning in `state` (the caller refuses or ignores it).
std::optional<JobState> NextState(JobState state, JobEvent event);

/// SUCCEEDED, FAILED and CANCELLED: nothing changes any more.
bool IsTerminal(JobState state);
/// States in which the job's lease may run: STARTING, RUNNING, PAUSING, CANCELLING.
bool MayHoldLease(JobState state);
/// States in which a commit is accepted: STARTING, RUNNING, PAUSING (the result overtook the pause).
bool MayCommit(JobState state);

/// False for reasons that a retry cannot mend: INVALID_INPUT, NON_FINITE.
bool IsWorthRetrying(TerminationReason reason);
/// True when trying again is pointless until somebody has acted, though the job itself is sound: NO_SPACE.
bool NeedsAPerson(TerminationReason reason);
/// False for reasons that are not the job's fault: WORKER_LOST and PREEMPTED, which raise recovery_count only, and
/// PAUSED_BY_USER, which raises nothing.
bool CountsAsAttempt(TerminationReason reason);

/// "RUNNING", "OOM_GPU" and so on; the words of proto, store and logs.
std::string_view JobStateName(JobState state);
std::optional<JobState> ParseJobState(std::string_view name);
std::string_view JobEventName(JobEvent event);
std::string_view TerminationReasonName(TerminationReason reason);

}  // namespace sbora::core
