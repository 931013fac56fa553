#include "worker/trainer/link/run_command.h"

#include <csignal>
#include <exception>

#include "common/logging.h"
#include "worker/trainer/link/agent_link.h"
#include "worker/trainer/link/failure.h"
#include "worker/trainer/link/task_runner.h"

namespace sbora::trainer {
namespace {

void OnSigterm(int) { AgentLink::RequestStop(); }

void InstallSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSigterm;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
  // A reader that is gone shows in write's result.
  std::signal(SIGPIPE, SIG_IGN);
}

/// Torch's exceptions end in the sessions; this is for what the standard library throws anywhere else.
StatusOr<TaskEnd> RunSafely(const v1::TaskAssignment& task, TaskObserver& observer) {
  try {
    return RunTask(task, observer);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("OOM_HOST", "the host ran out of memory");
  } catch (const std::exception& error) {
    return Internal("TRAINER_EXCEPTION", error.what());
  }
}

}  // namespace

ExitCode RunCommand(int fd) {
  InstallSignals();
  auto link = AgentLink::Start(fd);
  if (!link.ok()) {
    LogError("no task from the agent", {{"error", link.status().ToString()}});
    return link.status().reason() == "PROTOCOL" && link.status().code() == StatusCode::kDataLoss ? ExitCode::kAgentGone
                                                                                              : ExitCode::kError;
  }
  const v1::TaskAssignment& task = (*link)->task();
  const LogScope scope({{"job", task.job()}, {"attempt", task.attempt()}, {"epoch", task.epoch()}});
  LogInfo("task", {{"device", task.device()}, {"threads", task.threads()}});
  const auto end = RunSafely(task, **link);
  if (!end.ok()) {
    LogError("task failed", {{"error", end.status().ToString()}});
    (*link)->SendError(end.status());
    return ExitCodeOf(end.status());
  }
  if (end->stopped) {
    (*link)->Finish();
    return ExitCode::kPreempted;
  }
  if (end->result) {
    (*link)->SendResult(*end->result);
  } else {
    (*link)->Finish();
  }
  return ExitCode::kDone;
}

}  // namespace sbora::trainer
