/// What an attempt's early end means for its job. Pure functions.
#pragma once

#include "server/scheduler/types.h"

namespace sbora::server {

struct RetryDecision {
  bool give_up = false;
  bool hold = false;  // no next attempt before a person resumes the job
  Duration wait{};  // before the next attempt
};

/// Updates the counters of `row` (failed_attempts, backoff_steps, recovery_count) for an attempt that began at
/// `start_checkpoint_step` and ended with `reason`: a checkpoint newer than the start resets them; then reasons that are
/// the job's fault count towards max_attempts, others raise recovery_count only, and a user's pause nothing. A training
/// job that lacks what only a person can provide (core::NeedsAPerson) is held and counts nothing; other kinds cannot be
/// paused and are tried again.
RetryDecision AfterAttempt(const SchedulerConfig& config, core::TerminationReason reason, int64_t start_checkpoint_step,
                           WorkRow* row);

/// The wait after `steps` early ends without a new checkpoint, the last one for `reason`: backoff * 2^(steps - 1), at most
/// backoff_max. After a lost worker one step less, so that the first loss waits for the re-dispatch time alone; none after a
/// drain or pause.
Duration BackoffAfter(const SchedulerConfig& config, core::TerminationReason reason, int steps);

}  // namespace sbora::server
