/// The real sbora-trainer on one end of a socket, the test as its agent on the other.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/status.h"
#include "sbora/trainer/v1/trainer.pb.h"

namespace sbora::testing {

class TrainerProcess {
 public:
  /// Starts the program and sends it the task. stderr is appended to `log`.
  static StatusOr<TrainerProcess> Start(const trainer::v1::TaskAssignment& task, const std::filesystem::path& log);
  TrainerProcess(TrainerProcess&&) noexcept;
  ~TrainerProcess();  // SIGKILL when it still runs

  void Send(const trainer::v1::AgentMessage& message) const;
  void SendStop() const;
  void Signal(int signal) const;
  void CloseSocket() { socket_.Reset(); }
  /// The next message; nothing at end of file.
  std::optional<trainer::v1::TrainerMessage> Next() const;
  /// Exit code, or 128 + signal.
  int Wait();

 private:
  TrainerProcess(pid_t pid, UniqueFd socket) : pid_(pid), socket_(std::move(socket)) {}
  pid_t pid_ = -1;
  UniqueFd socket_;
};

/// All that a trainer said until its end.
struct TrainerRun {
  int exit_code = -1;
  std::vector<sbora::v1::MetricPoint> metrics;
  std::vector<sbora::v1::FineTuningEvent> events;
  std::vector<trainer::v1::CheckpointWritten> checkpoints;
  std::optional<worker::v1::TaskResult> result;
  std::optional<trainer::v1::Error> error;
  int64_t ticks = 0;
  sbora::v1::JobProgress last_progress;

  const sbora::v1::FineTuningEvent* FindEvent(const std::string& type) const;
};

/// Runs a task to its end. `on_message` may answer through the process.
TrainerRun RunTrainer(const trainer::v1::TaskAssignment& task, const std::filesystem::path& log,
                      const std::function<void(TrainerProcess&, const trainer::v1::TrainerMessage&)>& on_message = {});

}  // namespace sbora::testing
