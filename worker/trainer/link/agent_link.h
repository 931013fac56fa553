/// The trainer's end of the socket to its agent (sbora.trainer.v1).
///
///     SBORA_ASSIGN_OR_RETURN(auto link, AgentLink::Start(fd));
///     const trainer::v1::TaskAssignment& task = link->task();
///     ... run it with *link as the observer ...
///     link->SendResult(result);
///
/// Threads: reader (end of file ends the process at once with exit code 4), watchdog (no Renewed for
/// self_fence_seconds: exit code 5, also when this process was stopped meanwhile), writer (OutgoingQueue). The exits are
/// immediate (_exit): nothing that a fenced process still writes could count.
/// Observer calls and Send* come from one thread.
#pragma once

#include <google/protobuf/timestamp.pb.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/status.h"
#include "sbora/trainer/v1/trainer.pb.h"
#include "worker/trainer/link/outgoing_queue.h"
#include "worker/trainer/session/task_observer.h"

namespace sbora::trainer {

class AgentLink : public TaskObserver {
 public:
  static constexpr Duration kAliveEvery = std::chrono::milliseconds(250);

  /// Reads the task and starts the threads. Takes the descriptor's number, not its ownership: it lives as long as the
  /// process. Errors: DATA_LOSS and INVALID_ARGUMENT PROTOCOL when the first message is no task.
  static StatusOr<std::unique_ptr<AgentLink>> Start(int fd);
  ~AgentLink() override;

  const v1::TaskAssignment& task() const { return task_; }

  /// The last message; returns when it is written. An end of file after it is no loss of the agent.
  void SendResult(const worker::v1::TaskResult& result);
  void SendError(const Status& error);
  /// Waits until all events are written; for a stop after a checkpoint.
  void Finish();

  void OnProgress(const TaskProgress& progress) override;
  /// Repeats the last progress with one more tick when kAliveEvery has gone by without any; else reads a clock.
  void OnAlive() override;
  void OnMetrics(const StepMetrics& metrics) override;
  void OnCheckpoint(int64_t step, const std::string& directory, std::optional<double> validation_loss) override;
  void OnEvent(EventLevel level, std::string_view type, const std::string& message) override;
  bool StopRequested() override;

  /// Asks for a stop from outside the protocol (SIGTERM). Async-signal-safe.
  static void RequestStop();

 private:
  AgentLink(int fd, v1::TaskAssignment task);
  void Read();
  void Watch(const std::stop_token& stop);
  void Send(const v1::TrainerMessage& message);
  void TellProgress();
  std::vector<LogField> LogFields() const;

  const int fd_;
  const v1::TaskAssignment task_;
  v1::TrainerMessage progress_;  // the last; its ticks count all that were told
  MonotonicTime told_{};
  std::atomic<bool> finishing_ = false;
  Mutex mutex_;
  MonotonicTime renewed_ SBORA_GUARDED_BY(mutex_);
  std::unique_ptr<OutgoingQueue> outgoing_;
  std::jthread watchdog_;
  std::thread reader_;  // ends at end of file, which the destructor makes
};

}  // namespace sbora::trainer
