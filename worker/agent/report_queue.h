/// What an attempt tells the coordinator, in order, until it is acknowledged. Bounded: when the coordinator is away for
/// long, the oldest metrics and events that were never sent give way; checkpoints never do. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>

#include "common/mutex.h"
#include "sbora/worker/v1/worker.pb.h"

namespace sbora::agent {

class ReportQueue {
 public:
  static constexpr size_t kMaxSent = 512;
  static constexpr size_t kMaxWaiting = 4096;
  /// Of the items in one last report: well below what a coordinator takes in one message.
  static constexpr size_t kMaxLastBytes = 2 * 1024 * 1024;
  /// The coordinator takes messages of 4 MiB; the rest is for what surrounds one.
  static constexpr size_t kMaxMessageBytes = 4 * 1024 * 1024 - 64 * 1024;

  void Add(v1::MetricPoint metric);
  void Add(v1::FineTuningEvent event);
  void Add(worker::v1::CheckpointReport checkpoint);

  /// Appends all that is not acknowledged, oldest first, at most kMaxSent. Numbers are given here, when an item is
  /// first sent: they have no gaps, whatever gave way before.
  void Fill(google::protobuf::RepeatedPtrField<worker::v1::ReportItem>* items);
  /// The same for a report after which the attempt is forgotten: all items, and should they be more than kMaxLastBytes,
  /// the oldest metrics and events that were never sent give way.
  void FillLast(google::protobuf::RepeatedPtrField<worker::v1::ReportItem>* items);
  void Acknowledge(int64_t sequence);
  int64_t dropped() const;
  bool empty() const;

 private:
  void AddItem(worker::v1::ReportItem item);

  mutable Mutex mutex_;
  std::deque<worker::v1::ReportItem> sent_ SBORA_GUARDED_BY(mutex_);
  std::deque<worker::v1::ReportItem> waiting_ SBORA_GUARDED_BY(mutex_);
  int64_t next_sequence_ SBORA_GUARDED_BY(mutex_) = 1;
  int64_t dropped_ SBORA_GUARDED_BY(mutex_) = 0;
};

}  // namespace sbora::agent
