#include "server/scheduler/retry_policy.h"

#include <algorithm>

namespace sbora::server {

using core::TerminationReason;

Duration BackoffAfter(const SchedulerConfig& config, TerminationReason reason, int steps) {
  // A drained or paused gang ended as it was asked to: there is nothing to wait for.
  if (reason == TerminationReason::kPreempted || reason == TerminationReason::kPausedByUser) return Duration::zero();
  if (reason == TerminationReason::kWorkerLost) --steps;
  if (steps <= 0) return Duration::zero();
  Duration wait = config.backoff;
  for (int step = 1; step < steps && wait < config.backoff_max; ++step) wait *= 2;
  return std::min(wait, config.backoff_max);
}

RetryDecision AfterAttempt(const SchedulerConfig& config, TerminationReason reason, int64_t start_checkpoint_step,
                           WorkRow* row) {
  const bool progressed = row->checkpoint_step > start_checkpoint_step;
  if (progressed) {
    row->failed_attempts = 0;
    row->backoff_steps = 0;
  }
  if (core::NeedsAPerson(reason) && row->kind == WorkKind::kTrain) return {.give_up = false, .hold = true, .wait = {}};
  if (core::CountsAsAttempt(reason)) {
    if (!progressed) ++row->failed_attempts;
  } else if (reason != TerminationReason::kPausedByUser) {
    ++row->recovery_count;
  }
  if (!core::IsWorthRetrying(reason) || row->failed_attempts >= config.max_attempts) return {.give_up = true, .hold = false, .wait = {}};
  if (reason != TerminationReason::kPreempted && reason != TerminationReason::kPausedByUser) ++row->backoff_steps;
  return {.give_up = false, .hold = false, .wait = BackoffAfter(config, reason, row->backoff_steps)};
}

}  // namespace sbora::server
