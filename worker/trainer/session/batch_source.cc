#include "worker/trainer/session/batch_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"
#include "data/packing.h"
#include "data/token_cache.h"

namespace sbora::trainer {

namespace {

/// The cache was made on this machine, not by the user: whatever is wrong with its bytes is damage, not bad input.
StatusOr<data::TokenCache> OpenCache(const std::filesystem::path& path) {
  auto cache = data::TokenCache::Open(path);
  if (!cache.ok() && cache.status().reason().starts_with("TOKEN_CACHE_")) {
    return DataLoss(cache.status().reason(), cache.status().message());
  }
  return cache;
}

}  // namespace

struct BatchSource::Impl {
  data::TokenCache cache;
  data::BatchPlan plan;
};

BatchSource::BatchSource(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BatchSource::~BatchSource() = default;

StatusOr<std::unique_ptr<BatchSource>> BatchSource::Open(const std::filesystem::path& cache_path,
                                                         const core::TrainingSpec& training, int64_t vocab_size) {
  SBORA_ASSIGN_OR_RETURN(auto cache, OpenCache(cache_path));
  if (cache.size() == 0) {
    return InvalidArgument("DATASET_EMPTY", fmt::format("{} holds no samples", cache_path.string()));
  }
  if (cache.vocab_bound() > vocab_size) {
    return InvalidArgument("TOKEN_OUT_OF_RANGE",
                           fmt::format("{} holds token {}, the model's vocabulary has {}; was it made for another model?",
                                       cache_path.string(), cache.vocab_bound() - 1, vocab_size));
  }
  const data::BatchPlan plan({.samples = cache.size(),
                              .batch_size = training.batch_size,
                              .micro_batch_size = training.micro_batch_size,
                              .epochs = training.epochs,
                              .max_steps = training.max_steps,
                              .seed = training.seed});
  return std::unique_ptr<BatchSource>(new BatchSource(std::make_unique<Impl>(Impl{std::move(cache), plan})));
}

const std::string& BatchSource::key() const { return impl_->cache.key(); }
int64_t BatchSource::samples() const { return impl_->cache.size(); }
int64_t BatchSource::total_steps() const { return impl_->plan.total_steps(); }

double BatchSource::SupervisedShare() const {
  int64_t tokens = 0;
  int64_t supervised = 0;
  for (int64_t index = 0; index < impl_->cache.size(); ++index) {
    const data::TokenSample sample = impl_->cache.Sample(index);
    tokens += static_cast<int64_t>(sample.ids.size());
    supervised += data::CountLabels(sample);
  }
  return static_cast<double>(supervised) / static_cast<double>(std::max<int64_t>(1, tokens));
}

StepBatch BatchSource::Step(int64_t step) const {
  StepBatch batch{.micro_batches = impl_->plan.MicroBatches(step, /*rank=*/0, /*world_size=*/1),
                  .tokens = 0,
                  .supervised_tokens = 0,
                  .epoch_index = impl_->plan.Epoch(step),
                  .epoch = impl_->plan.EpochsAfter(step + 1)};
  for (const auto& samples : batch.micro_batches) {
    for (const int64_t index : samples) {
      const data::TokenSample sample = impl_->cache.Sample(index);
      batch.tokens += static_cast<int64_t>(sample.ids.size());
      batch.supervised_tokens += data::CountLabels(sample);
    }
  }
  return batch;
}

std::vector<std::vector<int64_t>> BatchSource::InOrder(int64_t micro_batch) const {
  return data::SequentialMicroBatches(impl_->cache.size(), micro_batch, /*rank=*/0, /*world_size=*/1);
}

PackedBatch BatchSource::Pack(std::span<const int64_t> samples) const {
  const auto packed = data::PackMicroBatch(impl_->cache, samples);
  SBORA_CHECK(packed.ok(), "packing: {}", packed.status().ToString());
  PackedBatch batch;
  batch.ids.assign(packed->ids_T.begin(), packed->ids_T.end());
  batch.positions.assign(packed->position_ids_T.begin(), packed->position_ids_T.end());
  batch.cu_seqlens.assign(packed->cu_seqlens.begin(), packed->cu_seqlens.end());
  batch.sample_ids.assign(packed->sample_indices_S.begin(), packed->sample_indices_S.end());
  batch.supervised_rows.assign(packed->label_positions_L.begin(), packed->label_positions_L.end());
  batch.targets.assign(packed->label_ids_L.begin(), packed->label_ids_L.end());
  return batch;
}

}  // namespace sbora::trainer
