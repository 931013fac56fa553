/// What a running task tells its surroundings, and the one thing it asks them. Plain data, no LibTorch, no protobuf.
///
/// Threading: all calls come from the thread that runs the task, but for OnAlive, which may come from the thread of a
/// backward pass while that one waits for it: never two at once. Implementations must return soon; one that waits holds
/// the training up (the protocol link documents for how long it may).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sbora::trainer {

/// Where a task stands. For evaluation and generation, steps are samples.
struct TaskProgress {
  int64_t step = 0;
  int64_t total_steps = 0;
  double loss = 0;
  double validation_loss = 0;
  double tokens_per_second = 0;
  double learning_rate = 0;
  double remaining_seconds = 0;  ///< 0 when not known
  int64_t trained_tokens = 0;
  std::string phase;             ///< for people: "loading model (12 of 272 tensors)"
};

struct StepMetrics {
  int64_t step = 0;   ///< steps done, from 1
  double loss = 0;    ///< mean over the step's supervised tokens
  double learning_rate = 0;
  double gradient_norm = 0;  ///< before clipping
  double tokens_per_second = 0;
  int64_t trained_tokens = 0;
  std::optional<double> validation_loss;
  double epoch = 0;
};

enum class EventLevel { kInfo, kWarn, kError };

class TaskObserver {
 public:
  virtual ~TaskObserver() = default;
  /// Each call is a sign of life: steps, loaded tensors, validation batches, samples, checkpoints.
  virtual void OnProgress(const TaskProgress& progress) = 0;
  /// A sign of life without news: after each layer of a forward pass and each module of a backward pass, because one
  /// micro-batch of a large model takes longer than the agent waits. Called often; must cost next to nothing.
  virtual void OnAlive() = 0;
  virtual void OnMetrics(const StepMetrics& metrics) = 0;
  /// The folder `directory` of the checkpoint directory is complete, durable and verified.
  virtual void OnCheckpoint(int64_t step, const std::string& directory, std::optional<double> validation_loss) = 0;
  /// `type` is UPPER_SNAKE_CASE.
  virtual void OnEvent(EventLevel level, std::string_view type, const std::string& message) = 0;
  /// True when the task is to stop at the next safe point: training checkpoints first, other tasks end with CANCELLED.
  virtual bool StopRequested() = 0;
};

}  // namespace sbora::trainer
