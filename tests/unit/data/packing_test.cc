#include "data/packing.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace sbora::data {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(PackMicroBatch, ConcatenatesWithoutPaddingAndLabelsTheNextToken) {
  const auto dir = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-data-test").value();
  const auto path = dir.path() / "x.tokens";
  auto writer = TokenCacheWriter::Create(path, std::string(64, 'a'));
  ASSERT_TRUE(writer->Add(std::vector<int32_t>{10, 11, 12, 13}, std::vector<uint8_t>{0, 0, 1, 1}).ok());
  ASSERT_TRUE(writer->Add(std::vector<int32_t>{20, 21}, std::vector<uint8_t>{1, 1}).ok());
  ASSERT_TRUE(writer->Add(std::vector<int32_t>{30, 31, 32}, std::vector<uint8_t>{0, 1, 0}).ok());
  ASSERT_TRUE(writer->Finish().ok());
  const auto cache = TokenCache::Open(path);
  ASSERT_TRUE(cache.ok());
  const auto batch = PackMicroBatch(*cache, std::vector<int64_t>{2, 0, 1});
  ASSERT_TRUE(batch.ok()) << batch.status();
  EXPECT_THAT(batch->ids_T, ElementsAre(30, 31, 32, 10, 11, 12, 13, 20, 21));
  EXPECT_THAT(batch->position_ids_T, ElementsAre(0, 1, 2, 0, 1, 2, 3, 0, 1));
  EXPECT_THAT(batch->cu_seqlens, ElementsAre(0, 3, 7, 9));
  EXPECT_EQ(batch->max_seqlen, 4);
  // The first token of a sample is never a label, even when supervised: nothing of its own precedes it.
  EXPECT_THAT(batch->label_positions_L, ElementsAre(0, 4, 5, 7));
  EXPECT_THAT(batch->label_ids_L, ElementsAre(31, 12, 13, 21));
  EXPECT_THAT(batch->draws_S, ElementsAre(2, 0, 1));
  EXPECT_EQ(CountLabels(cache->Sample(1)), 1);
  // A sample that comes again is packed again, under the number that its dropout masks are drawn from.
  const auto again = PackMicroBatch(*cache, std::vector<int64_t>{1, 4});
  EXPECT_THAT(again->ids_T, ElementsAre(20, 21, 20, 21));
  EXPECT_THAT(again->draws_S, ElementsAre(1, 4));
  const auto empty = PackMicroBatch(*cache, {});
  EXPECT_THAT(empty->cu_seqlens, ElementsAre(0));
}

TEST(PackMicroBatch, RefusesMoreTokensThanItsOffsetsCount) {
  constexpr size_t kTokens = size_t{1} << 20;
  const auto dir = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-data-test").value();
  auto writer = TokenCacheWriter::Create(dir.path() / "x.tokens", std::string(64, 'a'));
  ASSERT_TRUE(writer->Add(std::vector<int32_t>(kTokens, 1), std::vector<uint8_t>(kTokens, 1)).ok());
  ASSERT_TRUE(writer->Finish().ok());
  const auto cache = TokenCache::Open(dir.path() / "x.tokens");
  ASSERT_TRUE(cache.ok()) << cache.status();
  const Status status = PackMicroBatch(*cache, std::vector<int64_t>((size_t{1} << 31) / kTokens, 0)).status();
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
  EXPECT_EQ(status.reason(), "MICRO_BATCH_TOO_LARGE");
  EXPECT_THAT(status.message(), ::testing::HasSubstr("2147483648 tokens"));
}

TEST(BatchPlan, EachEpochCoversEverySampleOnce) {
  const BatchPlan plan({.samples = 23, .batch_size = 5, .micro_batch_size = 2, .epochs = 3.0, .max_steps = 0, .seed = 1});
  EXPECT_EQ(plan.steps_per_epoch(), 5);
  EXPECT_EQ(plan.total_steps(), 15);
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> seen;
    for (int64_t step = epoch * 5; step < epoch * 5 + 5; ++step) {
      const auto batch = plan.Batch(step);
      EXPECT_EQ(batch.size(), step % 5 == 4 ? 3u : 5u);  // the last batch of an epoch is what is left
      EXPECT_EQ(plan.Epoch(step), epoch);
      seen.insert(seen.end(), batch.begin(), batch.end());
    }
    orders.insert(seen);
    std::sort(seen.begin(), seen.end());
    std::vector<int64_t> all(23);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(seen, all);
  }
  EXPECT_EQ(orders.size(), 3u);
  EXPECT_DOUBLE_EQ(plan.EpochsAfter(5), 1.0);
  EXPECT_DOUBLE_EQ(plan.EpochsAfter(1), 5.0 / 23);
}

TEST(BatchPlan, StepsFollowEpochsOrMaxSteps) {
  EXPECT_EQ(BatchPlan({.samples = 100, .batch_size = 16, .micro_batch_size = 4, .epochs = 0.5}).total_steps(), 4);
  EXPECT_EQ(BatchPlan({.samples = 100, .batch_size = 16, .micro_batch_size = 4, .epochs = 0.001}).total_steps(), 1);
  EXPECT_EQ(BatchPlan({.samples = 3, .batch_size = 16, .micro_batch_size = 4, .epochs = 1, .max_steps = 9}).total_steps(), 9);
  EXPECT_EQ(BatchPlan({.samples = 3, .batch_size = 16, .micro_batch_size = 4}).Batch(0).size(), 3u);
}

TEST(BatchPlan, RanksShareTheSameBatchContiguously) {
  const BatchPlan plan({.samples = 50, .batch_size = 16, .micro_batch_size = 3, .epochs = 2, .max_steps = 0, .seed = 7});
  for (const int64_t step : {0, 3, 5}) {
    for (const int64_t world : {1, 2, 3, 8, 20}) {
      std::vector<int64_t> joined;
      for (int64_t rank = 0; rank < world; ++rank) {
        for (const auto& micro : plan.MicroBatches(step, rank, world)) {
          EXPECT_LE(micro.size(), 3u);
          EXPECT_FALSE(micro.empty());
          joined.insert(joined.end(), micro.begin(), micro.end());
        }
      }
      EXPECT_EQ(joined, plan.Batch(step)) << step << ' ' << world;
    }
  }
  EXPECT_THAT(plan.MicroBatches(3, 0, 20), IsEmpty());  // 2 samples left, 20 ranks
}

TEST(BatchPlan, AMixtureFollowsItsOrder) {
  BatchPlanOptions options{
      .samples = 9, .batch_size = 4, .micro_batch_size = 2, .epochs = 3, .max_steps = 0, .seed = 5};
  options.part_sizes = {7, 2};
  options.part_counts = {5, 5};
  const BatchPlan plan(options);
  const MixtureOrder order({7, 2}, {5, 5}, 5);
  EXPECT_EQ(plan.steps_per_epoch(), 3);
  EXPECT_EQ(plan.total_steps(), 9);
  for (int64_t step = 0; step < 9; ++step) {
    std::vector<int64_t> expected;
    for (int64_t position = step % 3 * 4; position < std::min<int64_t>(step % 3 * 4 + 4, 10); ++position) {
      const MixtureDraw draw = order.Draw(step / 3, position);
      expected.push_back(draw.sample + 9 * draw.repeat);
    }
    EXPECT_EQ(plan.Batch(step), expected);
  }
  EXPECT_DOUBLE_EQ(plan.EpochsAfter(1), 0.4);
}

TEST(BatchPlan, GroupsByLengthWithinWindowsOfTheSameOrder) {
  BatchPlanOptions options{
      .samples = 1003, .batch_size = 4, .micro_batch_size = 2, .epochs = 2, .max_steps = 0, .seed = 5};
  const BatchPlan plain(options);
  options.length = [](int64_t sample) { return sample * 7919 % 97; };
  const BatchPlan grouped(options);
  ASSERT_EQ(grouped.total_steps(), plain.total_steps());
  const auto window = [](const BatchPlan& plan, int64_t begin, int64_t end) {
    std::vector<int64_t> samples;
    for (int64_t step = begin; step < end; ++step) {
      const auto batch = plan.Batch(step);
      samples.insert(samples.end(), batch.begin(), batch.end());
    }
    return samples;
  };
  // 50 batches are sorted at a time; the last window of an epoch of 251 batches has one.
  for (const auto& [begin, end] : {std::pair{0, 50}, {50, 100}, {200, 250}, {250, 251}, {251, 301}}) {
    std::vector<int64_t> expected = window(plain, begin, end);
    std::stable_sort(expected.begin(), expected.end(),
                     [&](int64_t a, int64_t b) { return options.length(a) > options.length(b); });
    EXPECT_EQ(window(grouped, begin, end), expected);
  }
  EXPECT_EQ(BatchPlan(options).Batch(123), grouped.Batch(123));  // no state: any step alone
  // In small data a window is a quarter of the epoch, at least a batch.
  options.samples = 40;
  const BatchPlan small(options);
  const auto longer = [&](int64_t a, int64_t b) { return options.length(a) > options.length(b); };
  const auto first = window(small, 0, 2);
  const auto four = window(small, 0, 4);
  EXPECT_TRUE(std::is_sorted(first.begin(), first.end(), longer));
  EXPECT_FALSE(std::is_sorted(four.begin(), four.end(), longer));
}

TEST(BatchPlan, SeedDecidesTheOrder) {
  const BatchPlanOptions options{.samples = 1000, .batch_size = 50, .micro_batch_size = 5, .epochs = 1, .max_steps = 0, .seed = 1};
  BatchPlanOptions other = options;
  other.seed = 2;
  EXPECT_EQ(BatchPlan(options).Batch(7), BatchPlan(options).Batch(7));
  EXPECT_NE(BatchPlan(options).Batch(7), BatchPlan(other).Batch(7));
}

TEST(SequentialMicroBatches, CoverAllInOrder) {
  EXPECT_THAT(SequentialMicroBatches(5, 2, 0, 1), ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3), ElementsAre(4)));
  EXPECT_THAT(SequentialMicroBatches(5, 2, 1, 2), ElementsAre(ElementsAre(2, 3), ElementsAre(4)));
  EXPECT_THAT(SequentialMicroBatches(0, 2, 0, 1), IsEmpty());
}

}  // namespace
}  // namespace sbora::data
