#include "worker/agent/report_queue.h"

#include <algorithm>
#include <utility>

namespace sbora::agent {

void ReportQueue::Add(v1::MetricPoint metric) {
  worker::v1::ReportItem item;
  *item.mutable_metric() = std::move(metric);
  AddItem(std::move(item));
}

void ReportQueue::Add(v1::FineTuningEvent event) {
  worker::v1::ReportItem item;
  *item.mutable_event() = std::move(event);
  AddItem(std::move(item));
}

void ReportQueue::Add(worker::v1::CheckpointReport checkpoint) {
  worker::v1::ReportItem item;
  *item.mutable_checkpoint() = std::move(checkpoint);
  AddItem(std::move(item));
}

void ReportQueue::AddItem(worker::v1::ReportItem item) {
  MutexLock lock(mutex_);
  waiting_.push_back(std::move(item));
  if (waiting_.size() <= kMaxWaiting) return;
  const auto oldest = std::find_if(waiting_.begin(), waiting_.end(),
                                   [](const worker::v1::ReportItem& i) { return !i.has_checkpoint(); });
  if (oldest == waiting_.end()) return;
  waiting_.erase(oldest);
  ++dropped_;
}

void ReportQueue::Fill(google::protobuf::RepeatedPtrField<worker::v1::ReportItem>* items) {
  MutexLock lock(mutex_);
  while (sent_.size() < kMaxSent && !waiting_.empty()) {
    waiting_.front().set_sequence(next_sequence_++);
    sent_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  for (const auto& item : sent_) *items->Add() = item;
}

void ReportQueue::FillLast(google::protobuf::RepeatedPtrField<worker::v1::ReportItem>* items) {
  MutexLock lock(mutex_);
  size_t bytes = 0;
  for (const auto* part : {&sent_, &waiting_}) {
    for (const auto& item : *part) bytes += item.ByteSizeLong();
  }
  for (auto it = waiting_.begin(); it != waiting_.end() && bytes > kMaxLastBytes;) {
    if (it->has_checkpoint()) {
      ++it;
      continue;
    }
    bytes -= it->ByteSizeLong();
    it = waiting_.erase(it);
    ++dropped_;
  }
  for (; !waiting_.empty(); waiting_.pop_front()) {
    waiting_.front().set_sequence(next_sequence_++);
    sent_.push_back(std::move(waiting_.front()));
  }
  for (const auto& item : sent_) *items->Add() = item;
}

void ReportQueue::Acknowledge(int64_t sequence) {
  MutexLock lock(mutex_);
  while (!sent_.empty() && sent_.front().sequence() <= sequence) sent_.pop_front();
}

int64_t ReportQueue::dropped() const {
  MutexLock lock(mutex_);
  return dropped_;
}

bool ReportQueue::empty() const {
  MutexLock lock(mutex_);
  return sent_.empty() && waiting_.empty();
}

}  // namespace sbora::agent
