/// Time, injected. Decisions (leases, back-off, deadlines) use the monotonic clock only; wall time is for display.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <stop_token>

namespace sbora {

using MonotonicTime = std::chrono::steady_clock::time_point;
using WallTime = std::chrono::system_clock::time_point;
using Duration = std::chrono::nanoseconds;

/// Thread-safe. Implementations: `SystemClock()`, and `FakeClock` in tests/testing/fake_clock.h.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual MonotonicTime Now() const = 0;
  virtual WallTime WallNow() const = 0;
  /// Blocks until `deadline` or until `stop` is requested; true when the deadline was reached. The only place in the
  /// code base that sleeps.
  virtual bool SleepUntil(MonotonicTime deadline, const std::stop_token& stop) const = 0;
};

/// The process-wide real clock; lives for ever, holds no state.
const Clock& SystemClock();

/// Milliseconds since the Unix epoch, for storage and display.
int64_t ToUnixMillis(WallTime time);
WallTime FromUnixMillis(int64_t millis);

}  // namespace sbora
