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
  EXPECT_THAT(batch->sample_indices_S, ElementsAre(2, 0, 1));
  EXPECT_EQ(CountLabels(cache->Sample(1)), 1);
  const auto empty = PackMicroBatch(*cache, {});
  EXPECT_THAT(empty->cu_seqlens, ElementsAre(0));
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
