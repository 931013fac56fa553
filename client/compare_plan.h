/// What `sbora-client compare` runs: the spec of each method and seed, the ranks that match parameter counts, and ids that
/// are the same when the command is run again.
///
/// All methods share data, data order, held-out samples, optimizer and seeds; they differ in method, quantization and, with
/// `match_parameters`, rank. Alpha follows the rank so that the adapter's scale stays. The k-th run of every method has data
/// seed `training.seed` + k and index seed `adapter.index_seed` + k, which starts at another number than the data seed's.
/// Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "core/model_config.h"
#include "sbora/v1/evaluation.pb.h"
#include "sbora/v1/job.pb.h"

namespace sbora::client {

/// Between the first data seed and the first index seed, unless the job names one.
inline constexpr uint64_t kIndexSeedOffset = 1'000'000;
inline constexpr int kMaxSeeds = 100;

struct CompareOptions {
  v1::FineTuningSpec spec;           ///< the job's; full names of model and data sets
  std::vector<std::string> methods;  ///< "sbora_fa", "lora", "sbora_fa+nf4", ...
  int seeds = 1;
  bool match_parameters = false;  ///< to the count of the first method that has a rank, at the job's rank
  std::string name;               ///< empty: made from the spec
};

struct MethodPlan {
  std::string method;       ///< with its quantization: "sbora_fa+nf4"
  v1::FineTuningSpec spec;  ///< of the first seed
  int64_t rank = 0;         ///< 0 for full
  double alpha = 0;         ///< 0 for full
  int64_t trainable_parameters = 0;  ///< 0 when the spec does not fit the model: the server says why
};

struct ComparePlan {
  std::string name;
  std::vector<uint64_t> seeds;
  std::vector<uint64_t> index_seeds;  ///< as `seeds`
  std::vector<MethodPlan> methods;
  std::vector<std::string> notes;  ///< what was changed or cannot be had, for the report
};

/// Errors: INVALID_ARGUMENT USAGE (no or unknown methods, seeds out of [1, kMaxSeeds], a rank_pattern beside
/// match_parameters, one method twice), BAD_RESOURCE_ID for a name.
StatusOr<ComparePlan> PlanComparison(const CompareOptions& options, const core::ModelConfig& model);

/// The rank whose count is nearest to `wanted` trained elements, the smaller one of two as near; from 1 to what the
/// narrowest target allows. REQUIRED: a method with a rank, no pattern of ranks.
int64_t MatchRank(const core::ModelConfig& model, core::AdapterSpec adapter, int64_t wanted);

/// The label that a run's job carries, and what it holds: a digest of the run's spec.
inline constexpr std::string_view kRunLabel = "sbora-compare-run";
std::string RunDigest(const v1::FineTuningSpec& spec);

/// The request that makes one run. The same plan gives the same request, so that a repeat finds the job that is there.
/// `attempt` counts jobs of this run that were deleted since: each needs a request id of its own.
v1::CreateFineTuningJobRequest RunRequest(const ComparePlan& plan, const MethodPlan& method, size_t seed, int attempt);

/// An evaluation asked for with `--evaluate [TASK=]DATASET`.
struct EvaluationPlan {
  std::string title;        ///< as it was written
  v1::EvaluationSpec spec;  ///< neither model nor adapter; the full name of the data set
};
/// Without a task: answers by exact match, and perplexity, in the job's prompt template.
/// Errors: those of FindEvaluationTask.
StatusOr<EvaluationPlan> PlanEvaluation(std::string_view text, const v1::FineTuningSpec& job);

/// `subject_uid`: of the job whose adapter it is, or of the model: another adapter of the same name is another evaluation.
v1::CreateEvaluationJobRequest EvaluationRequest(const ComparePlan& plan, const v1::EvaluationSpec& spec,
                                                 std::string_view subject_uid, int attempt);

/// A version-4 UUID that is a function of `content` alone.
std::string DeriveUuid(std::string_view content);

}  // namespace sbora::client
