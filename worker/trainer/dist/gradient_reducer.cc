#include "worker/trainer/dist/gradient_reducer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"

namespace sbora::trainer {

std::vector<Bucket> CutBuckets(std::span<const int64_t> part_sizes, const BucketOptions& options) {
  const int64_t total = std::accumulate(part_sizes.begin(), part_sizes.end(), int64_t{0});
  const int64_t even = (total + options.max_buckets - 1) / options.max_buckets;
  const int64_t wanted = std::max(options.min_elements, even);
  std::vector<Bucket> buckets;
  Bucket open;
  for (const int64_t size : part_sizes) {
    open.size += size;
    if (open.size < wanted) continue;
    buckets.push_back(open);
    open = {.offset = open.offset + open.size, .size = 0};
  }
  if (open.size == 0) return buckets;
  if (buckets.empty()) return {open};
  buckets.back().size += open.size;
  return buckets;
}

GradientReducer::GradientReducer(ProcessGroup& group, at::Tensor gradients, std::span<const int64_t> part_sizes,
                                 const BucketOptions& options)
    : group_(group), gradients_(std::move(gradients)), buckets_(CutBuckets(part_sizes, options)) {
  const int64_t covered = buckets_.empty() ? 0 : buckets_.back().offset + buckets_.back().size;
  SBORA_CHECK(gradients_.dim() == 1 && covered == gradients_.numel(), "parts of {} elements for a gradient of {}", covered,
              gradients_.numel());
}

void GradientReducer::Begin(const at::Tensor& control) {
  SBORA_CHECK(!begun_, "a step's sums were begun twice");
  begun_ = true;
  next_ = 0;
  remaining_.clear();
  for (const Bucket& bucket : buckets_) remaining_.push_back(bucket.size);
  running_.push_back(group_.StartSum(control));
}

void GradientReducer::Ready(int64_t offset, int64_t size) {
  if (!begun_) return;
  for (size_t i = 0; i < buckets_.size(); ++i) {
    const int64_t begin = std::max(offset, buckets_[i].offset);
    const int64_t end = std::min(offset + size, buckets_[i].offset + buckets_[i].size);
    if (begin >= end) continue;
    remaining_[i] -= end - begin;
    SBORA_CHECK(remaining_[i] >= 0, "the gradient of [{}, {}) was final already", offset, offset + size);
  }
  while (next_ < buckets_.size() && remaining_[next_] == 0) StartNext();
}

void GradientReducer::StartNext() {
  const Bucket& bucket = buckets_[next_++];
  running_.push_back(group_.StartSum(gradients_.narrow(0, bucket.offset, bucket.size)));
}

Status GradientReducer::Finish() {
  SBORA_CHECK(begun_, "a step's sums were not begun");
  while (next_ < buckets_.size()) StartNext();
  begun_ = false;
  std::vector<ProcessGroup::Reduction> running = std::exchange(running_, {});
  for (ProcessGroup::Reduction& sum : running) SBORA_RETURN_IF_ERROR(sum.Wait());
  return OkStatus();
}

}  // namespace sbora::trainer
