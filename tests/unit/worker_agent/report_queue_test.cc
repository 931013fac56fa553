#include "worker/agent/report_queue.h"

#include <gtest/gtest.h>

namespace sbora::agent {
namespace {

using Items = google::protobuf::RepeatedPtrField<worker::v1::ReportItem>;

void AddMetric(ReportQueue& queue, int64_t step) {
  v1::MetricPoint metric;
  metric.set_step(step);
  queue.Add(std::move(metric));
}

TEST(ReportQueueTest, RepeatsUntilAcknowledged) {
  ReportQueue queue;
  for (int step = 1; step <= 3; ++step) AddMetric(queue, step);
  Items first, second, third;
  queue.Fill(&first);
  ASSERT_EQ(first.size(), 3);
  EXPECT_EQ(first[2].sequence(), 3);
  queue.Acknowledge(2);
  AddMetric(queue, 4);
  queue.Fill(&second);
  ASSERT_EQ(second.size(), 2);
  EXPECT_EQ(second[0].sequence(), 3);
  EXPECT_EQ(second[1].sequence(), 4);
  queue.Acknowledge(9);
  queue.Fill(&third);
  EXPECT_EQ(third.size(), 0);
  EXPECT_TRUE(queue.empty());
}

TEST(ReportQueueTest, BoundedWithoutGapsAndWithoutLosingCheckpoints) {
  ReportQueue queue;
  worker::v1::CheckpointReport checkpoint;
  checkpoint.set_step(7);
  queue.Add(checkpoint);
  for (int step = 1; step <= 10'000; ++step) AddMetric(queue, step);
  EXPECT_EQ(queue.dropped(), 10'001 - static_cast<int64_t>(ReportQueue::kMaxWaiting));
  int64_t sequence = 0;
  int checkpoints = 0;
  int64_t last_step = 0;
  while (!queue.empty()) {
    Items items;
    queue.Fill(&items);
    ASSERT_LE(items.size(), static_cast<int>(ReportQueue::kMaxSent));
    for (const auto& item : items) {
      EXPECT_EQ(item.sequence(), ++sequence);
      checkpoints += item.has_checkpoint() ? 1 : 0;
      if (item.has_metric()) last_step = item.metric().step();
    }
    queue.Acknowledge(sequence);
  }
  EXPECT_EQ(checkpoints, 1);
  EXPECT_EQ(last_step, 10'000);
}

TEST(ReportQueueTest, TheLastReportHoldsEverything) {
  ReportQueue queue;
  for (int step = 1; step <= 2000; ++step) AddMetric(queue, step);
  worker::v1::CheckpointReport checkpoint;
  checkpoint.set_step(2000);
  queue.Add(checkpoint);
  Items usual, last;
  queue.Fill(&usual);
  EXPECT_EQ(usual.size(), static_cast<int>(ReportQueue::kMaxSent));
  queue.FillLast(&last);
  ASSERT_EQ(last.size(), 2001);
  EXPECT_EQ(last[0].sequence(), 1);
  EXPECT_EQ(last[2000].sequence(), 2001);
  EXPECT_TRUE(last[2000].has_checkpoint());
}

TEST(ReportQueueTest, TheLastReportStaysSmallAndKeepsTheCheckpoint) {
  ReportQueue queue;
  worker::v1::CheckpointReport checkpoint;
  checkpoint.set_step(1);
  queue.Add(checkpoint);
  for (int i = 0; i < 4000; ++i) {
    v1::FineTuningEvent event;
    event.set_message(std::string(2000, 'x'));
    queue.Add(std::move(event));
  }
  Items last;
  queue.FillLast(&last);
  size_t bytes = 0;
  for (const auto& item : last) bytes += item.ByteSizeLong();
  EXPECT_LE(bytes, ReportQueue::kMaxLastBytes + 16 * last.size());  // the numbers come on top
  EXPECT_GT(last.size(), 900);
  EXPECT_TRUE(last[0].has_checkpoint());
  EXPECT_EQ(queue.dropped() + last.size(), 4001);
}

}  // namespace
}  // namespace sbora::agent
