/// From the way a gang ended to what the coordinator and the user are told.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "sbora/worker/v1/worker.pb.h"
#include "worker/agent/gang.h"

namespace sbora::agent {

struct Verdict {
  v1::TerminationReason reason = v1::TERMINATION_REASON_UNSPECIFIED;
  /// Empty for DONE.
  v1::Failure failure;
};

/// DONE needs rank 0's result and its exit 0; of ranks without rank 0, the exit 0 of all. The agent's own doing comes first
/// (an order, the fence, the hang), then the trainer's Error, then memory, signal and exit code; an Error RANK_LOST comes
/// after these, whose consequence it is.
/// `last_output` is the end of the failing rank's output.
Verdict Judge(const GangOutcome& outcome, const std::string& last_output);

/// Beside OOM_HOST and OOM_GPU what a rank was estimated to need, in bytes; other verdicts, and 0, as they are.
Verdict WithEstimate(Verdict verdict, int64_t estimated_bytes);

/// The rank whose exit ended the gang, -1 when the agent did or all went well.
int FailingRank(const GangOutcome& outcome);

/// The last line that is not blank among the last 4 KiB, at most 400 bytes; empty when there is none.
std::string LastLine(const std::filesystem::path& output);

/// "ok", "error", "signal", "oom_host", "oom_gpu" or "hang": the label of sbora_trainer_rank_exits_total.
std::string_view ExitLabel(v1::TerminationReason reason);

}  // namespace sbora::agent
