#include "data/mixture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/check.h"
#include "core/counter_rng.h"

namespace sbora::data {
namespace {

/// Each data set's passes have a seed of their own; otherwise equal sizes would be drawn in equal orders.
uint64_t PartSeed(uint64_t seed, size_t part) {
  const core::PhiloxKey key = core::DeriveKey("sbora.mixture.v1", seed, fmt::format("{}", part));
  return uint64_t{key[1]} << 32 | key[0];
}

}  // namespace

std::vector<int64_t> MixtureCounts(std::span<const int64_t> sizes, std::span<const double> weights,
                                   int64_t epoch_samples) {
  SBORA_CHECK(weights.empty() || weights.size() == sizes.size(), "{} weights for {} data sets", weights.size(),
              sizes.size());
  const int64_t all = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  const int64_t wanted = epoch_samples > 0 ? epoch_samples : all;
  // Whole numbers need no rounding.
  if (weights.empty() && wanted == all) return {sizes.begin(), sizes.end()};
  std::vector<double> shares(weights.begin(), weights.end());
  if (shares.empty()) shares.assign(sizes.begin(), sizes.end());
  const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
  std::vector<int64_t> counts;
  std::vector<double> remainders;
  for (const double share : shares) {
    const double exact = share / total * static_cast<double>(wanted);
    counts.push_back(static_cast<int64_t>(std::floor(exact)));
    remainders.push_back(exact - std::floor(exact));
  }
  std::vector<size_t> order(counts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  // Floors sum to at most `wanted`, but for rounding of an exact share just above a whole number: then one is taken
  // back.
  int64_t left = wanted - std::accumulate(counts.begin(), counts.end(), int64_t{0});
  for (size_t i = 0; left > 0; i = (i + 1) % order.size(), --left) ++counts[order[i]];
  for (size_t i = order.size(); left < 0; ++left) --counts[order[--i]];
  return counts;
}

MixtureOrder::MixtureOrder(std::vector<int64_t> sizes, std::vector<int64_t> counts, uint64_t seed) : seed_(seed) {
  SBORA_CHECK(!sizes.empty() && sizes.size() == counts.size(), "{} counts for {} data sets", counts.size(),
              sizes.size());
  int64_t first_sample = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    SBORA_CHECK(sizes[i] > 0 && counts[i] > 0, "data set {} of {} samples is drawn from {} times", i, sizes[i],
                counts[i]);
    parts_.push_back({.first_sample = first_sample,
                      .size = sizes[i],
                      .first_slot = epoch_samples_,
                      .count = counts[i],
                      .seed = PartSeed(seed, i)});
    first_sample += sizes[i];
    epoch_samples_ += counts[i];
  }
}

MixtureDraw MixtureOrder::Draw(int64_t epoch, int64_t position) const {
  SBORA_CHECK(epoch >= 0 && position >= 0 && position < epoch_samples_, "position {} of epoch {}", position, epoch);
  const int64_t slot = core::SeededPermutation(seed_, static_cast<uint64_t>(epoch), epoch_samples_)(position);
  const auto next = std::upper_bound(parts_.begin(), parts_.end(), slot,
                                     [](int64_t value, const Part& part) { return value < part.first_slot; });
  const Part& part = *(next - 1);
  const int64_t first = epoch * part.count;  // of this epoch's draws from the data set, counted from epoch 0
  const int64_t draw = first + slot - part.first_slot;
  const int64_t pass = draw / part.size;
  const core::SeededPermutation order(part.seed, static_cast<uint64_t>(pass), part.size);
  return {.sample = part.first_sample + order(draw % part.size), .repeat = pass - first / part.size};
}

}  // namespace sbora::data
