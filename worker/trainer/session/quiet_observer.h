/// For a task that nobody watches and nobody stops. Derive from it to listen to one thing only.
#pragma once

#include "worker/trainer/session/task_observer.h"

namespace sbora::trainer {

class QuietObserver : public TaskObserver {
 public:
  void OnProgress(const TaskProgress&) override {}
  void OnAlive() override {}
  void OnMetrics(const StepMetrics&) override {}
  void OnCheckpoint(int64_t, const std::string&, std::optional<double>) override {}
  void OnEvent(EventLevel, std::string_view, const std::string&) override {}
  bool StopRequested() override { return false; }
};

}  // namespace sbora::trainer
