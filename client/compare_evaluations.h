/// Several evaluations of the same data side by side. Pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "sbora/v1/evaluation.pb.h"

namespace sbora::client {

struct ScoredExample {
  std::string expected;
  bool match = false;
};
/// By index in the data set.
using ScoredExamples = std::map<int64_t, ScoredExample>;

/// What an examples.jsonl tells. Errors: DATA_LOSS BAD_EXAMPLES naming the line.
StatusOr<ScoredExamples> ParseExamples(std::string_view jsonl);

/// At least two jobs, and as many examples. The models and adapters, devices, threads and batch sizes may differ,
/// nothing else. Errors: FAILED_PRECONDITION NOT_SUCCEEDED, NOT_COMPARABLE telling what differs; INVALID_ARGUMENT USAGE
/// for one job.
StatusOr<v1::EvaluationComparison> CompareEvaluations(const std::vector<v1::EvaluationJob>& jobs,
                                                      const std::vector<ScoredExamples>& examples);

/// Exact two-sided McNemar test, 1 for no difference at all (McNemar 1947; binomial tail at one half).
double McNemarPValue(int64_t gained, int64_t lost);

}  // namespace sbora::client
