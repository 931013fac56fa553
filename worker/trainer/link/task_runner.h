/// Runs one TaskAssignment: protobuf in, plain structs to the sessions, protobuf out. Free of LibTorch.
#pragma once

#include <optional>

#include "common/status.h"
#include "sbora/trainer/v1/trainer.pb.h"
#include "worker/trainer/session/task_observer.h"

namespace sbora::trainer {

/// The result, or nothing after a stop that left a checkpoint, and after prepare_only.
/// Errors: INVALID_ARGUMENT TASK_MALFORMED (no task, a missing folder), those of core::ParseSpec and of the task;
/// UNIMPLEMENTED TASK_UNIMPLEMENTED, MULTI_RANK, EXPORT_FORMAT.
struct TaskEnd {
  bool stopped = false;
  std::optional<worker::v1::TaskResult> result;
};
StatusOr<TaskEnd> RunTask(const v1::TaskAssignment& assignment, TaskObserver& observer);

}  // namespace sbora::trainer
