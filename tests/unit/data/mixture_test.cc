#include "data/mixture.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

namespace sbora::data {
namespace {

using ::testing::ElementsAre;

std::vector<int64_t> Counts(std::vector<int64_t> sizes, std::vector<double> weights, int64_t epoch_samples) {
  return MixtureCounts(sizes, weights, epoch_samples);
}

TEST(MixtureCounts, LargestRemaindersThatSumToTheEpoch) {
  EXPECT_THAT(Counts({10, 20, 5}, {}, 0), ElementsAre(10, 20, 5));
  EXPECT_THAT(Counts({10, 20, 5}, {}, 70), ElementsAre(20, 40, 10));
  EXPECT_THAT(Counts({10, 20, 5}, {1, 1, 1}, 0), ElementsAre(12, 12, 11));  // ties go to the earlier one
  EXPECT_THAT(Counts({9, 9, 9}, {5, 3, 2}, 9), ElementsAre(4, 3, 2));       // 4.5, 2.7, 1.8
  // The mixture that QLoRA's FLAN experiments name.
  EXPECT_THAT(Counts({1, 1, 1, 1, 1}, {.40, .32, .20, .05, .03}, 50000), ElementsAre(20000, 16000, 10000, 2500, 1500));
  EXPECT_THAT(Counts({100, 100}, {1, 1e-6}, 0), ElementsAre(200, 0));
  for (int64_t wanted = 1; wanted < 300; ++wanted) {
    const auto counts = Counts({7, 11, 13}, {0.1, 0.2, 0.7}, wanted);
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), wanted);
  }
}

TEST(MixtureOrder, EveryEpochHasTheCountsAndNoSampleComesBackEarly) {
  const std::vector<int64_t> sizes = {7, 3, 20};
  const std::vector<int64_t> counts = {7, 10, 6};
  const MixtureOrder order(sizes, counts, 42);
  ASSERT_EQ(order.epoch_samples(), 23);
  std::map<int64_t, int64_t> seen;
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 9; ++epoch) {
    std::vector<int64_t> of_part(3, 0);
    std::set<std::pair<int64_t, int64_t>> draws;
    std::vector<int64_t> samples;
    for (int64_t position = 0; position < 23; ++position) {
      const MixtureDraw draw = order.Draw(epoch, position);
      EXPECT_EQ(draw, MixtureOrder(sizes, counts, 42).Draw(epoch, position));
      ASSERT_TRUE(draw.sample >= 0 && draw.sample < 30) << draw.sample;
      EXPECT_TRUE(draws.insert({draw.sample, draw.repeat}).second);  // the same sample again is another draw
      ++of_part[draw.sample < 7 ? 0 : draw.sample < 10 ? 1 : 2];
      ++seen[draw.sample];
      samples.push_back(draw.sample);
    }
    EXPECT_EQ(of_part, counts);
    orders.insert(samples);
    // Within a data set, none is more than one draw ahead.
    for (const auto& [begin, end] : {std::pair{0, 7}, {7, 10}, {10, 30}}) {
      int64_t least = seen[begin], most = seen[begin];
      for (int64_t sample = begin; sample < end; ++sample) {
        least = std::min(least, seen[sample]);
        most = std::max(most, seen[sample]);
      }
      EXPECT_LE(most - least, 1) << "epoch " << epoch;
    }
  }
  EXPECT_EQ(orders.size(), 9u);
}

TEST(MixtureOrder, CountsOfTheSizesDrawEachSampleOnceAndTheSeedDecidesTheOrder) {
  const MixtureOrder order({5, 8}, {5, 8}, 1);
  const MixtureOrder other({5, 8}, {5, 8}, 2);
  std::vector<int64_t> first, second;
  for (int64_t position = 0; position < 13; ++position) {
    EXPECT_EQ(order.Draw(3, position).repeat, 0);
    first.push_back(order.Draw(3, position).sample);
    second.push_back(other.Draw(3, position).sample);
  }
  EXPECT_NE(first, second);
  std::sort(first.begin(), first.end());
  std::vector<int64_t> all(13);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(first, all);
}

/// The order is a contract: resumes of jobs that were started by an earlier program must see it. The numbers are those
/// of mixture([4, 2], [3, 5], 42, 2) in scripts/numerics/counter_rng.py.
TEST(MixtureOrder, OrderIsPinned) {
  const MixtureOrder order({4, 2}, {3, 5}, 42);
  std::vector<int64_t> samples, repeats;
  for (int64_t epoch = 0; epoch < 2; ++epoch) {
    for (int64_t position = 0; position < 8; ++position) {
      samples.push_back(order.Draw(epoch, position).sample);
      repeats.push_back(order.Draw(epoch, position).repeat);
    }
  }
  EXPECT_THAT(samples, ElementsAre(3, 2, 4, 5, 5, 4, 4, 1, 5, 4, 2, 5, 5, 0, 0, 4));
  EXPECT_THAT(repeats, ElementsAre(0, 0, 1, 1, 0, 0, 2, 0, 2, 2, 1, 0, 1, 1, 0, 1));
}

}  // namespace
}  // namespace sbora::data
