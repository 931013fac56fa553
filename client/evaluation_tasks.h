/// The evaluations of the literature by name: what `--task` sets, and flags override.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "sbora/v1/evaluation.pb.h"

namespace sbora::client {

struct EvaluationTask {
  std::string name;         ///< "gsm8k"
  std::string description;  ///< one line for people
  v1::EvaluationSpec spec;  ///< scoring, prompt and generation; no model, no data
};

/// Commonsense (8), arithmetic (6) and MMLU, as LLM-Adapters (arXiv 2304.01933) and SBoRA (arXiv 2407.05413) evaluate
/// them: LLM-Adapters' prompt, 4 beams, 32 new tokens or 256; MMLU with 5 shots by likelihood.
const std::vector<EvaluationTask>& EvaluationTasks();

/// The task of that name, whatever the case. Errors: INVALID_ARGUMENT UNKNOWN_TASK naming the nearest.
StatusOr<EvaluationTask> FindEvaluationTask(std::string_view name);

}  // namespace sbora::client
