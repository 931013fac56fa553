/// What the trainer consumes: micro-batches of whole samples, concatenated without padding. Attention must not cross
/// the borders in cu_seqlens; positions restart at each.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "data/mixture.h"
#include "data/token_cache.h"

namespace sbora::data {

/// T tokens, S samples, L labels.
struct PackedMicroBatch {
  std::vector<int32_t> ids_T;
  std::vector<int32_t> position_ids_T;  ///< 0, 1, 2, ... in each sample
  std::vector<int32_t> cu_seqlens;      ///< [S + 1]: 0, then the end of each sample
  int32_t max_seqlen = 0;
  /// Positions whose next token (in the same sample) is supervised, ascending, and that next token. Only these reach
  /// the language-model head.
  std::vector<int32_t> label_positions_L;
  std::vector<int32_t> label_ids_L;
  std::vector<int64_t> draws_S;  ///< as given: what dropout masks are drawn from
};

/// Targets of one sample: supervised tokens but the first. The sum over a batch is the weight of its loss.
int64_t CountLabels(const TokenSample& sample);

/// A draw is a sample's index in the token cache, plus the cache's size for each time that the sample came before in
/// the epoch (in a mixture): equal text, another dropout mask. REQUIRED: draws are not negative, the cache is not
/// empty.
/// Errors: OUT_OF_RANGE MICRO_BATCH_TOO_LARGE above 2^31-1 tokens.
StatusOr<PackedMicroBatch> PackMicroBatch(const TokenCache& cache, std::span<const int64_t> draws);
/// The sample of a draw.
TokenSample SampleOfDraw(const TokenCache& cache, int64_t draw);

struct BatchPlanOptions {
  int64_t samples = 0;           ///< of the training cache, at least 1
  int64_t batch_size = 16;       ///< samples per optimizer step, all ranks together
  int64_t micro_batch_size = 4;  ///< samples per forward pass of one rank
  double epochs = 1.0;           ///< used when max_steps is 0
  int64_t max_steps = 0;
  uint64_t seed = 42;
  /// Of a mixture: samples of each data set in the cache (`samples` is their sum), and in an epoch (MixtureCounts).
  /// Both empty for one data set.
  std::vector<int64_t> part_sizes = {};
  std::vector<int64_t> part_counts = {};
  /// Groups by length where set: tokens of a sample. Pure, thread-safe; must outlive the plan.
  std::function<int64_t(int64_t sample)> length = nullptr;
};

/// Batches among which samples are sorted by length, as transformers' LengthGroupedSampler (which besides moves the
/// longest sample of all to the front of the epoch; this does not).
inline constexpr int64_t kLengthGroupBatches = 50;

/// Which samples step s trains on: a pure function of (options, step), so that any resume and any world size see the
/// same batches. Each epoch is a permutation of its own, or a draw from the mixture (mixture.h). Grouping by length
/// sorts kLengthGroupBatches batches of that order at a time, longest first and else by position; a quarter of the
/// epoch's whole batches when that is less, at least one. The last batch of an epoch holds what is left, at least 1 and
/// possibly fewer than batch_size samples; it is a step like any other (the loss is a mean over supervised tokens).
/// Copyable, immutable, thread-safe.
class BatchPlan {
 public:
  /// REQUIRED: samples, batch_size, micro_batch_size >= 1; epochs > 0 or max_steps > 0.
  explicit BatchPlan(const BatchPlanOptions& options);

  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  /// max_steps, or ceil(epochs * steps_per_epoch).
  int64_t total_steps() const { return total_steps_; }
  int64_t Epoch(int64_t step) const { return step / steps_per_epoch_; }
  /// Fraction of epochs done after `step` steps.
  double EpochsAfter(int64_t step) const;

  /// All draws (see PackMicroBatch) of step `step` (0-based), in order. O(batch_size), 50 times that with `length`.
  std::vector<int64_t> Batch(int64_t step) const;
  /// Rank `rank`'s contiguous share of Batch(step), [rank * n / world, (rank + 1) * n / world), cut into micro-batches. A
  /// rank's share is empty when the batch has fewer samples than ranks: it then contributes zero and still joins the
  /// reduction.
  std::vector<std::vector<int64_t>> MicroBatches(int64_t step, int64_t rank, int64_t world_size) const;
  /// The same of a batch that is at hand.
  std::vector<std::vector<int64_t>> MicroBatchesOf(std::span<const int64_t> batch, int64_t rank, int64_t world_size) const;

 private:
  int64_t DrawAt(int64_t epoch, int64_t position) const;

  BatchPlanOptions options_;
  std::optional<MixtureOrder> mixture_;
  int64_t epoch_samples_ = 0;
  int64_t steps_per_epoch_ = 1;
  int64_t total_steps_ = 0;
};

/// Samples 0 .. samples-1 in order in micro-batches, rank's contiguous share: for validation.
std::vector<std::vector<int64_t>> SequentialMicroBatches(int64_t samples, int64_t micro_batch_size, int64_t rank,
                                                         int64_t world_size);

}  // namespace sbora::data
