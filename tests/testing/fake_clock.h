/// A clock that moves only when a test moves it. Thread-safe.
#pragma once

#include <condition_variable>
#include <stop_token>

#include "common/clock.h"
#include "common/mutex.h"

namespace sbora::testing {

class FakeClock : public Clock {
 public:
  MonotonicTime Now() const override {
    MutexLock lock(mutex_);
    return now_;
  }
  WallTime WallNow() const override {
    MutexLock lock(mutex_);
    return wall_;
  }
  /// Waits until Advance has passed `deadline`.
  bool SleepUntil(MonotonicTime deadline, const std::stop_token& stop) const override {
    MutexLock lock(mutex_);
    return moved_.wait(lock, stop, [&] { return now_ >= deadline; });
  }

  void Advance(Duration by) {
    MutexLock lock(mutex_);
    now_ += std::chrono::duration_cast<MonotonicTime::duration>(by);
    wall_ += std::chrono::duration_cast<WallTime::duration>(by);
    moved_.notify_all();
  }
  /// A step of the wall clock alone, as an operator or NTP makes it.
  void JumpWall(Duration by) {
    MutexLock lock(mutex_);
    wall_ += std::chrono::duration_cast<WallTime::duration>(by);
  }

 private:
  mutable Mutex mutex_;
  mutable std::condition_variable_any moved_;
  MonotonicTime now_ SBORA_GUARDED_BY(mutex_){std::chrono::hours(1)};
  WallTime wall_ SBORA_GUARDED_BY(mutex_){std::chrono::seconds(1'700'000'000)};
};

}  // namespace sbora::testing
