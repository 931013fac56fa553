#include "data/packing.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/check.h"
#include "core/counter_rng.h"

namespace sbora::data {
namespace {

std::vector<std::vector<int64_t>> Chunks(std::span<const int64_t> samples, int64_t micro_batch_size) {
  std::vector<std::vector<int64_t>> chunks;
  const auto step = static_cast<size_t>(micro_batch_size);
  for (size_t begin = 0; begin < samples.size(); begin += step) {
    const auto part = samples.subspan(begin, std::min(step, samples.size() - begin));
    chunks.emplace_back(part.begin(), part.end());
  }
  return chunks;
}

/// [rank * n / world, (rank + 1) * n / world).
std::pair<int64_t, int64_t> Share(int64_t n, int64_t rank, int64_t world_size) {
  SBORA_CHECK(world_size >= 1 && rank >= 0 && rank < world_size, "rank {} of {}", rank, world_size);
  return {n * rank / world_size, n * (rank + 1) / world_size};
}

}  // namespace

int64_t CountLabels(const TokenSample& sample) {
  int64_t count = 0;
  for (size_t i = 1; i < sample.supervised.size(); ++i) count += sample.supervised[i];
  return count;
}

TokenSample SampleOfDraw(const TokenCache& cache, int64_t draw) { return cache.Sample(draw % cache.size()); }

StatusOr<PackedMicroBatch> PackMicroBatch(const TokenCache& cache, std::span<const int64_t> draws) {
  int64_t total = 0;
  for (const int64_t draw : draws) total += static_cast<int64_t>(SampleOfDraw(cache, draw).ids.size());
  if (total > std::numeric_limits<int32_t>::max()) {
    return OutOfRange("MICRO_BATCH_TOO_LARGE", fmt::format("a micro-batch of {} tokens exceeds 2^31-1; lower the "
                                                           "micro-batch size or the cutoff", total));
  }
  PackedMicroBatch batch;
  batch.ids_T.reserve(static_cast<size_t>(total));
  batch.position_ids_T.reserve(static_cast<size_t>(total));
  batch.cu_seqlens.push_back(0);
  batch.draws_S.assign(draws.begin(), draws.end());
  for (const int64_t draw : draws) {
    const TokenSample sample = SampleOfDraw(cache, draw);
    const auto begin = static_cast<int32_t>(batch.ids_T.size());
    const auto length = static_cast<int32_t>(sample.ids.size());
    batch.ids_T.insert(batch.ids_T.end(), sample.ids.begin(), sample.ids.end());
    for (int32_t i = 0; i < length; ++i) {
      batch.position_ids_T.push_back(i);
      if (i == 0 || sample.supervised[static_cast<size_t>(i)] == 0) continue;
      batch.label_positions_L.push_back(begin + i - 1);
      batch.label_ids_L.push_back(sample.ids[static_cast<size_t>(i)]);
    }
    batch.cu_seqlens.push_back(begin + length);
    batch.max_seqlen = std::max(batch.max_seqlen, length);
  }
  return batch;
}

BatchPlan::BatchPlan(const BatchPlanOptions& options) : options_(options) {
  SBORA_CHECK(options.samples >= 1 && options.batch_size >= 1 && options.micro_batch_size >= 1,
              "a plan of {} samples in batches of {} and micro-batches of {}", options.samples, options.batch_size,
              options.micro_batch_size);
  SBORA_CHECK(options.max_steps > 0 || options.epochs > 0, "a plan of {} steps and {} epochs", options.max_steps,
              options.epochs);
  epoch_samples_ = options.samples;
  if (!options.part_sizes.empty()) {
    mixture_.emplace(options.part_sizes, options.part_counts, options.seed);
    epoch_samples_ = mixture_->epoch_samples();
  }
  steps_per_epoch_ = (epoch_samples_ + options.batch_size - 1) / options.batch_size;
  const double steps = std::ceil(options.epochs * static_cast<double>(steps_per_epoch_) - 1e-9);
  total_steps_ = options.max_steps > 0 ? options.max_steps : std::max<int64_t>(1, static_cast<int64_t>(steps));
}

double BatchPlan::EpochsAfter(int64_t step) const {
  const int64_t in_epoch = std::min(step % steps_per_epoch_ * options_.batch_size, epoch_samples_);
  return static_cast<double>(step / steps_per_epoch_) +
         static_cast<double>(in_epoch) / static_cast<double>(epoch_samples_);
}

int64_t BatchPlan::DrawAt(int64_t epoch, int64_t position) const {
  if (!mixture_)
    return core::SeededPermutation(options_.seed, static_cast<uint64_t>(epoch), options_.samples)(position);
  const MixtureDraw draw = mixture_->Draw(epoch, position);
  return draw.repeat * options_.samples + draw.sample;
}

std::vector<int64_t> BatchPlan::Batch(int64_t step) const {
  SBORA_CHECK(step >= 0, "step {}", step);
  const int64_t epoch = Epoch(step);
  const int64_t begin = step % steps_per_epoch_ * options_.batch_size;
  const int64_t end = std::min(begin + options_.batch_size, epoch_samples_);
  int64_t from = begin;
  int64_t to = end;
  if (options_.length) {
    const int64_t batches = std::clamp<int64_t>(epoch_samples_ / (options_.batch_size * 4), 1, kLengthGroupBatches);
    const int64_t group = batches * options_.batch_size;
    from = begin / group * group;
    to = std::min(from + group, epoch_samples_);
  }
  std::vector<int64_t> draws;
  draws.reserve(static_cast<size_t>(to - from));
  for (int64_t position = from; position < to; ++position) draws.push_back(DrawAt(epoch, position));
  if (!options_.length) return draws;
  std::stable_sort(draws.begin(), draws.end(), [&](int64_t a, int64_t b) {
    return options_.length(a % options_.samples) > options_.length(b % options_.samples);
  });
  return {draws.begin() + (begin - from), draws.begin() + (end - from)};
}

std::vector<std::vector<int64_t>> BatchPlan::MicroBatches(int64_t step, int64_t rank, int64_t world_size) const {
  return MicroBatchesOf(Batch(step), rank, world_size);
}

std::vector<std::vector<int64_t>> BatchPlan::MicroBatchesOf(std::span<const int64_t> batch, int64_t rank,
                                                            int64_t world_size) const {
  const auto [begin, end] = Share(static_cast<int64_t>(batch.size()), rank, world_size);
  return Chunks(batch.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)), options_.micro_batch_size);
}

std::vector<std::vector<int64_t>> SequentialMicroBatches(int64_t samples, int64_t micro_batch_size, int64_t rank,
                                                         int64_t world_size) {
  SBORA_CHECK(samples >= 0 && micro_batch_size >= 1, "{} samples in micro-batches of {}", samples, micro_batch_size);
  const auto [begin, end] = Share(samples, rank, world_size);
  std::vector<int64_t> indices;
  for (int64_t i = begin; i < end; ++i) indices.push_back(i);
  return Chunks(indices, micro_batch_size);
}

}  // namespace sbora::data
