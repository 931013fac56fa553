/// Waits between attempts of one thing: doubling, with jitter, bounded in number.
///
///     Backoff backoff({.max_attempts = 5});
///     while (true) {
///       const Status status = Try();
///       if (status.ok() || !IsRetryable(status.code()) || !backoff.Wait(SystemClock(), stop)) return status;
///     }
#pragma once

#include <algorithm>
#include <chrono>
#include <random>
#include <stop_token>

#include "common/clock.h"

namespace sbora {

struct BackoffOptions {
  std::chrono::milliseconds initial{200};
  std::chrono::milliseconds maximum{5'000};
  /// Waits granted before giving up; Reset() grants them anew.
  int max_attempts = 8;
};

/// Not thread-safe.
class Backoff {
 public:
  explicit Backoff(BackoffOptions options = {}) : options_(options), generator_(std::random_device{}()) {}

  /// Blocks for the next wait; false when the waits are used up or `stop` was requested.
  bool Wait(const Clock& clock, const std::stop_token& stop) {
    if (used_ >= options_.max_attempts || stop.stop_requested()) return false;
    return clock.SleepUntil(clock.Now() + Next(), stop);
  }

  /// The next wait, half to all of the doubled step, so that many clients do not come back at the same moment.
  Duration Next() {
    const auto step = std::min(options_.maximum, options_.initial * (int64_t{1} << std::min(used_, 20)));
    ++used_;
    return std::chrono::milliseconds(std::uniform_int_distribution<int64_t>(step.count() / 2, step.count())(generator_));
  }

  /// After progress: the next wait is the first again.
  void Reset() { used_ = 0; }

 private:
  BackoffOptions options_;
  std::mt19937_64 generator_;
  int used_ = 0;
};

}  // namespace sbora
