/// Exit codes of sbora-trainer; part of the contract with the agent (trainer.proto).
#pragma once

namespace sbora::trainer {

enum class ExitCode : int {
  kDone = 0,
  kError = 1,       ///< an Error event tells which
  kUsage = 2,       ///< unknown command or flag
  kPreempted = 3,   ///< stopped after a checkpoint
  kAgentGone = 4,   ///< end of file from the agent
  kSelfFenced = 5,  ///< no renewal for self_fence_seconds
  kInternal = 70,
};

}  // namespace sbora::trainer
