/// `sbora-trainer bench`: tokens per second of a method on a model and data. Needs neither proto nor network.
#pragma once

#include <string>
#include <vector>

#include "worker/trainer/link/exit_code.h"

namespace sbora::trainer {

/// Flags after the word `bench`. The result goes to stdout, as text or (`--output json`) as one JSON object with
/// `tokensPerSecond`.
ExitCode BenchCommand(const std::vector<std::string>& arguments);

}  // namespace sbora::trainer
