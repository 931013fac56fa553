#include "worker/trainer/link/outgoing_queue.h"

#include <pthread.h>

#include <utility>

#include "common/file.h"

namespace sbora::trainer {

OutgoingQueue::OutgoingQueue(int fd, std::function<void(const Status&)> on_failure)
    : fd_(fd), on_failure_(std::move(on_failure)), writer_([this](const std::stop_token& stop) { Run(stop); }) {}

OutgoingQueue::~OutgoingQueue() = default;

void OutgoingQueue::Send(std::string frame) {
  MutexLock lock(mutex_);
  changed_.wait(lock, [this]() SBORA_REQUIRES(mutex_) { return frames_.size() < kCapacity || failed_; });
  if (failed_) return;
  frames_.push_back(std::move(frame));
  changed_.notify_all();
}

void OutgoingQueue::SendProgress(std::string frame) {
  MutexLock lock(mutex_);
  if (failed_) return;
  progress_ = std::move(frame);
  changed_.notify_all();
}

void OutgoingQueue::Flush() {
  MutexLock lock(mutex_);
  changed_.wait(lock, [this]() SBORA_REQUIRES(mutex_) { return failed_ || Idle(); });
}

void OutgoingQueue::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "writer");
  for (;;) {
    std::string frame;
    {
      MutexLock lock(mutex_);
      writing_ = false;
      changed_.notify_all();
      const bool more = changed_.wait(lock, stop, [this]() SBORA_REQUIRES(mutex_) { return !frames_.empty() || progress_; });
      if (!more || stop.stop_requested()) return;
      if (frames_.empty()) {
        frame = *std::exchange(progress_, std::nullopt);
      } else {
        frame = std::move(frames_.front());
        frames_.pop_front();
      }
      writing_ = true;
      changed_.notify_all();
    }
    if (const Status written = WriteAll(fd_, frame, "writing to the agent"); !written.ok()) {
      {
        MutexLock lock(mutex_);
        failed_ = true;
        writing_ = false;
        changed_.notify_all();
      }
      on_failure_(written);
      return;
    }
  }
}

}  // namespace sbora::trainer
