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
  std::vector<int64_t> part_sizes;
  std::vector<int64_t> part_counts;  ///< of an epoch
  std::optional<data::BatchPlan> plan;
  int64_t rank = 0;
  int64_t world_size = 1;
};

/// Samples of each data set, in the cache and in an epoch.
Status BatchSource::CountParts(const std::filesystem::path& path, int64_t epoch_samples,
                               std::span<const double> weights, Impl& impl) {
  impl.part_sizes = impl.cache.part_sizes();
  if (!weights.empty() && weights.size() != impl.part_sizes.size()) {
    return FailedPrecondition("MIXTURE_WEIGHTS", fmt::format("{} holds {} data sets, the job has {} weights",
                                                             path.string(), impl.part_sizes.size(), weights.size()));
  }
  for (size_t i = 0; i < impl.part_sizes.size(); ++i) {
    if (impl.part_sizes[i] > 0) continue;
    return InvalidArgument("MIXTURE_PART_EMPTY",
                           fmt::format("{}: data set {} of the mixture holds no samples", path.string(), i));
  }
  impl.part_counts = data::MixtureCounts(impl.part_sizes, weights, epoch_samples);
  for (size_t i = 0; i < impl.part_counts.size(); ++i) {
    if (impl.part_counts[i] > 0) continue;
    return InvalidArgument("MIXTURE_PART_UNSEEN",
                           fmt::format("{}: the weight of data set {} gives it no sample in an epoch; raise "
                                       "it or epoch_samples",
                                       path.string(), i));
  }
  return OkStatus();
}

BatchSource::BatchSource(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
BatchSource::~BatchSource() = default;

StatusOr<std::unique_ptr<BatchSource>> BatchSource::Open(const std::filesystem::path& cache_path,
                                                         const core::TrainingSpec& training, int64_t vocab_size,
                                                         std::span<const double> weights, const GangPlace& gang) {
  SBORA_ASSIGN_OR_RETURN(auto cache, OpenCache(cache_path));
  if (cache.size() == 0) {
    return InvalidArgument("DATASET_EMPTY", fmt::format("{} holds no samples", cache_path.string()));
  }
  if (cache.vocab_bound() > vocab_size) {
    return InvalidArgument("TOKEN_OUT_OF_RANGE",
                           fmt::format("{} holds token {}, the model's vocabulary has {}; was it made for another model?",
                                       cache_path.string(), cache.vocab_bound() - 1, vocab_size));
  }
  auto impl = std::make_unique<Impl>(Impl{.cache = std::move(cache), .part_sizes = {}, .part_counts = {}, .plan = {},
                                        .rank = gang.rank, .world_size = gang.world_size});
  SBORA_RETURN_IF_ERROR(CountParts(cache_path, training.epoch_samples, weights, *impl));
  data::BatchPlanOptions options{.samples = impl->cache.size(),
                                 .batch_size = training.batch_size,
                                 .micro_batch_size = training.micro_batch_size,
                                 .epochs = training.epochs,
                                 .max_steps = training.max_steps,
                                 .seed = training.seed};
  // What an epoch of one data set draws once stays in the order that it has without a mixture.
  if (impl->part_sizes.size() > 1 || impl->part_counts != impl->part_sizes) {
    options.part_sizes = impl->part_sizes;
    options.part_counts = impl->part_counts;
  }
  if (training.group_by_length) {
    options.length = [cache = &impl->cache](int64_t sample) {
      return static_cast<int64_t>(cache->Sample(sample).ids.size());
    };
  }
  impl->plan.emplace(options);
  return std::unique_ptr<BatchSource>(new BatchSource(std::move(impl)));
}

const std::string& BatchSource::key() const { return impl_->cache.key(); }
int64_t BatchSource::samples() const { return impl_->cache.size(); }
int64_t BatchSource::total_steps() const { return impl_->plan->total_steps(); }

double BatchSource::SupervisedShare() const {
  double tokens = 0;
  double supervised = 0;
  int64_t index = 0;
  for (size_t part = 0; part < impl_->part_sizes.size(); ++part) {
    const double drawn = static_cast<double>(impl_->part_counts[part]) / static_cast<double>(impl_->part_sizes[part]);
    for (const int64_t end = index + impl_->part_sizes[part]; index < end; ++index) {
      const data::TokenSample sample = impl_->cache.Sample(index);
      tokens += drawn * static_cast<double>(sample.ids.size());
      supervised += drawn * static_cast<double>(data::CountLabels(sample));
    }
  }
  return supervised / std::max(1.0, tokens);
}

StepBatch BatchSource::Step(int64_t step) const {
  const std::vector<int64_t> draws = impl_->plan->Batch(step);
  StepBatch batch{.micro_batches = impl_->plan->MicroBatchesOf(draws, impl_->rank, impl_->world_size),
                  .tokens = 0,
                  .supervised_tokens = 0,
                  .epoch_index = impl_->plan->Epoch(step),
                  .epoch = impl_->plan->EpochsAfter(step + 1)};
  for (const int64_t draw : draws) {
    const data::TokenSample sample = data::SampleOfDraw(impl_->cache, draw);
    batch.tokens += static_cast<int64_t>(sample.ids.size());
    batch.supervised_tokens += data::CountLabels(sample);
  }
  // They add nothing to the loss; which one's backward pass is the step's last must be known before it.
  std::erase_if(batch.micro_batches, [this](const std::vector<int64_t>& micro_batch) {
    return std::none_of(micro_batch.begin(), micro_batch.end(), [this](int64_t draw) {
      return data::CountLabels(data::SampleOfDraw(impl_->cache, draw)) > 0;
    });
  });
  return batch;
}

std::vector<std::vector<int64_t>> BatchSource::InOrder(int64_t micro_batch) const {
  return data::SequentialMicroBatches(impl_->cache.size(), micro_batch, impl_->rank, impl_->world_size);
}

PackedBatch BatchSource::Pack(std::span<const int64_t> draws) const {
  const auto packed = data::PackMicroBatch(impl_->cache, draws);
  SBORA_CHECK(packed.ok(), "packing: {}", packed.status().ToString());
  PackedBatch batch;
  batch.ids.assign(packed->ids_T.begin(), packed->ids_T.end());
  batch.positions.assign(packed->position_ids_T.begin(), packed->position_ids_T.end());
  batch.cu_seqlens.assign(packed->cu_seqlens.begin(), packed->cu_seqlens.end());
  batch.sample_ids.assign(packed->draws_S.begin(), packed->draws_S.end());
  batch.supervised_rows.assign(packed->label_positions_L.begin(), packed->label_positions_L.end());
  batch.targets.assign(packed->label_ids_L.begin(), packed->label_ids_L.end());
  return batch;
}

}  // namespace sbora::trainer
