/// What a rank other than 0 tells its surroundings: that it lives. Metrics, checkpoints and events are rank 0's to tell.
#pragma once

#include "common/logging.h"
#include "worker/trainer/session/task_observer.h"

namespace sbora::trainer {

class FollowerObserver : public TaskObserver {
 public:
  /// `observer` must outlive it.
  explicit FollowerObserver(TaskObserver& observer) : observer_(observer) {}

  void OnProgress(const TaskProgress& progress) override { observer_.OnProgress(progress); }
  void OnAlive() override { observer_.OnAlive(); }
  void OnMetrics(const StepMetrics&) override {}
  void OnCheckpoint(int64_t, const std::string&, std::optional<double>) override {}
  /// Into this process's log only.
  void OnEvent(EventLevel, std::string_view type, const std::string& message) override {
    LogInfo("event", {{"type", type}, {"text", message}});
  }
  bool StopRequested() override { return observer_.StopRequested(); }

 private:
  TaskObserver& observer_;
};

}  // namespace sbora::trainer
