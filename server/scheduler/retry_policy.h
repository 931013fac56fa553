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
/// the job's fault count towards max_attempts, others raise recovery_count only. A training job that lacks what only a
/// person can provide (core::NeedsAPerson) is held and counts nothing; other kinds cannot be paused and are tried again.
RetryDecision AfterAttempt(const SchedulerConfig& config, core::TerminationReason reason, int64_t start_checkpoint_step,
                           WorkRow* row);

/// backoff * 2^(steps - 1), at most backoff_max; 0 for steps <= 0.
Duration BackoffOf(const SchedulerConfig& config, int steps);

}  // namespace sbora::server
