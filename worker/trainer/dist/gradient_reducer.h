/// Adds up the gradients of all ranks while the last backward pass of a step still runs. Include only from .cc files that
/// see LibTorch.
///
///     GradientReducer reducer(group, trained.gradients(), part_sizes);
///     adapter.SetGradientReadyHook([&](const AdapterModule& module) { reducer.Ready(module.offset, module.size); });
///     ... all micro-batches but the last ...
///     reducer.Begin(control);                // before the last one's backward pass, or at once if there is none
///     loss.backward();                       // Ready starts bucket after bucket
///     SBORA_RETURN_IF_ERROR(reducer.Finish());
///
/// The flat gradient is cut into a few contiguous buckets at borders of parts; where depends on sizes alone. Every rank
/// starts the same sums in the same order: control, then the buckets from the first to the last, each once it and all before
/// it are ready. So a rank without micro-batches cannot make another wait forever, and results repeat bit for bit.
/// Threading: one thread at a time; Ready may come from the thread of a backward pass while the caller waits for it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "common/status.h"
#include "worker/trainer/dist/process_group.h"

namespace sbora::trainer {

struct BucketOptions {
  int64_t max_buckets = 8;
  /// 1 MiB of float32: below, the overhead of a sum outweighs what starting early gains.
  int64_t min_elements = int64_t{1} << 18;
};

struct Bucket {
  int64_t offset = 0;
  int64_t size = 0;

  bool operator==(const Bucket&) const = default;
};

/// Whole parts in order, each bucket at least as large as the options and an even cut ask for; what is left at the end goes
/// into the last.
std::vector<Bucket> CutBuckets(std::span<const int64_t> part_sizes, const BucketOptions& options);

class GradientReducer {
 public:
  /// `gradients`: [P] float32, contiguous; shared with its owner. `part_sizes`: elements of its tensors in their order; P in
  /// all. The group must outlive it.
  GradientReducer(ProcessGroup& group, at::Tensor gradients, std::span<const int64_t> part_sizes,
                  const BucketOptions& options = {});

  /// Starts a step's sums with that of `control` (small; any shape), and lets Ready count from here on.
  void Begin(const at::Tensor& control);
  /// The gradient of [offset, offset + size) is final. Nothing happens before Begin: earlier micro-batches call it too.
  void Ready(int64_t offset, int64_t size);
  /// Starts what is left and waits for all. Then `control` and the gradients are sums. Errors: those of Reduction::Wait.
  Status Finish();

  const std::vector<Bucket>& buckets() const { return buckets_; }

 private:
  void StartNext();

  ProcessGroup& group_;
  const at::Tensor gradients_;
  const std::vector<Bucket> buckets_;
  bool begun_ = false;
  size_t next_ = 0;                 // bucket to start
  std::vector<int64_t> remaining_;  // elements of each bucket that are not final
  std::vector<ProcessGroup::Reduction> running_;
};

}  // namespace sbora::trainer
