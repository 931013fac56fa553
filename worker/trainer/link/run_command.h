/// `sbora-trainer run --fd N`: one task for the agent at the other end of the inherited socket.
#pragma once

#include "worker/trainer/link/exit_code.h"

namespace sbora::trainer {

/// Installs the SIGTERM handler (checkpoint, then exit 3), runs the task, sends its result or error.
ExitCode RunCommand(int fd);

}  // namespace sbora::trainer
