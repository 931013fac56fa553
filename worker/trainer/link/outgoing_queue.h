/// Frames on their way to the agent, written by a thread of their own so that training does not wait for the reader.
///
/// Nothing but progress is ever dropped: Send waits when kCapacity frames are waiting. It waits at most until the
/// watchdog ends the process (an agent that does not read does not renew either), that is self_fence_seconds. Of
/// progress only the newest waits; it goes out when nothing else does.
/// Threading: Send and SendProgress from one thread, Flush from the same; the writer thread is joined on destruction.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <thread>

#include "common/mutex.h"
#include "common/status.h"

namespace sbora::trainer {

class OutgoingQueue {
 public:
  static constexpr size_t kCapacity = 1024;

  /// `fd` is borrowed and must outlive the queue. `on_failure` is called once, on the writer thread, when a write
  /// fails; later frames are discarded.
  OutgoingQueue(int fd, std::function<void(const Status&)> on_failure);
  /// Discards what is still waiting; Flush first.
  ~OutgoingQueue();

  void Send(std::string frame);
  void SendProgress(std::string frame);
  /// Returns when all is written, or a write failed.
  void Flush();

 private:
  void Run(const std::stop_token& stop);
  bool Idle() const SBORA_REQUIRES(mutex_) { return frames_.empty() && !progress_ && !writing_; }

  const int fd_;
  const std::function<void(const Status&)> on_failure_;
  Mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::string> frames_ SBORA_GUARDED_BY(mutex_);
  std::optional<std::string> progress_ SBORA_GUARDED_BY(mutex_);
  bool writing_ SBORA_GUARDED_BY(mutex_) = false;
  bool failed_ SBORA_GUARDED_BY(mutex_) = false;
  std::jthread writer_;  // last: starts when all else is there
};

}  // namespace sbora::trainer
