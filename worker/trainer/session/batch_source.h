/// A token cache as batches for the model: which samples a step trains on, and their tokens packed. Torch-free.
///
/// Which samples: data::BatchPlan, a function of (seed, step) and of the cache's content. Threading: const calls from
/// any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "worker/trainer/nn/packed_batch.h"
#include "worker/trainer/session/device.h"

namespace sbora::trainer {

struct StepBatch {
  std::vector<std::vector<int64_t>> micro_batches;  ///< of this rank, those with supervised tokens: draws (data/packing.h)
  int64_t tokens = 0;             ///< of all ranks
  int64_t supervised_tokens = 0;  ///< of all ranks: the loss's divisor
  int64_t epoch_index = 0;        ///< keys the dropout masks
  double epoch = 0;               ///< passes over the data after this step
};

class BatchSource {
 public:
  /// Opens and checks a cache. `vocab_size`: ids at or above it are refused.
  /// A cache of several parts is a mixture of `weights` (empty: by size), one for each part. Batches are of all ranks of `gang`,
  /// micro-batches of this one.
  /// Errors: those of data::TokenCache, as DATA_LOSS for a file that is no whole cache; INVALID_ARGUMENT
  /// TOKEN_OUT_OF_RANGE, DATASET_EMPTY, MIXTURE_PART_EMPTY, MIXTURE_PART_UNSEEN; FAILED_PRECONDITION MIXTURE_WEIGHTS
  /// for another number of weights.
  static StatusOr<std::unique_ptr<BatchSource>> Open(const std::filesystem::path& cache, const core::TrainingSpec& training,
                                                     int64_t vocab_size, std::span<const double> weights = {},
                                                     const GangPlace& gang = {});
  ~BatchSource();

  const std::string& key() const;  ///< identity of the cache's content
  int64_t samples() const;  ///< in the cache
  int64_t total_steps() const;
  /// Targets of the loss per token of an epoch, 0 to 1: of the whole cache, or of a mixture's shares of it. Reads all
  /// labels once.
  double SupervisedShare() const;

  /// REQUIRED: 0 <= step < total_steps().
  StepBatch Step(int64_t step) const;
  /// This rank's share of all samples in the cache's order, `micro_batch` at a time.
  std::vector<std::vector<int64_t>> InOrder(int64_t micro_batch) const;
  PackedBatch Pack(std::span<const int64_t> draws) const;

 private:
  struct Impl;
  explicit BatchSource(std::unique_ptr<Impl> impl);
  static Status CountParts(const std::filesystem::path& path, int64_t epoch_samples, std::span<const double> weights,
                           Impl& impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sbora::trainer
