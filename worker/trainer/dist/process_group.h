/// The ranks of one attempt, on one worker or several, as one group that adds up tensors. Include only from .cc files that see LibTorch.
///
///     SBORA_ASSIGN_OR_RETURN(const auto group, ProcessGroup::Join({.rank = 1, .world_size = 2, .rendezvous_file = file}));
///     ProcessGroup::Reduction sum = group->StartSum(gradients);   // returns at once
///     ... compute ...
///     SBORA_RETURN_IF_ERROR(sum.Wait());                          // gradients holds the same bits on every rank
///
/// c10d's Gloo on CPUs, over 127.0.0.1 alone unless the ranks are on several workers; its NCCL on GPUs. All ranks must ask for the same sums, of the same shapes,
/// in the same order; a rank with nothing to add brings zeros. The order of additions is fixed by rank and shape, so a
/// repeated run has the same bits.
/// Errors are Statuses; after one of a sum the group is of no use. UNAVAILABLE RANK_LOST names the ranks that have ended,
/// or says that none has. Nothing here ticks: while a rank waits for another, the agent's hang watch looks at that other.
/// Threading: StartSum and Wait from one thread at a time. c10d has one background thread (and Gloo one for its sockets).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>

#include "common/status.h"
#include "worker/trainer/dist/over_workers.h"

namespace sbora::trainer {

class ProcessGroup {
 public:
  struct Options {
    int rank = 0;
    int world_size = 1;
    std::filesystem::path rendezvous_file;  ///< not there before the ranks of this attempt; its folder is
    std::optional<OverWorkers> over_workers = std::nullopt;  ///< in place of the file
    at::Device device = at::kCPU;           ///< of all tensors
    std::chrono::milliseconds join_timeout = std::chrono::minutes(2);
    /// Longer than any step, checkpoint or hang limit: the agent ends a gang that stands still, this is for when it does not.
    std::chrono::milliseconds sum_timeout = std::chrono::hours(6);
    /// How long a failed sum looks for the rank that has ended. Meanwhile that rank's own error gets to the agent first.
    std::chrono::milliseconds blame_limit = std::chrono::seconds(5);
  };

  /// Waits for all ranks. Errors: DEADLINE_EXCEEDED RENDEZVOUS_TIMEOUT naming who is missing; NOT_FOUND RENDEZVOUS_FOLDER;
  /// UNIMPLEMENTED RANKS_DEVICE for a GPU in a build without CUDA; UNAVAILABLE RANK_LOST when one ends meanwhile.
  static StatusOr<std::unique_ptr<ProcessGroup>> Join(const Options& options);
  /// Closes the connections: a rank that still waits for this one sees it lost.
  ~ProcessGroup();

  int rank() const;
  int world_size() const;
  at::Device device() const;

  /// A sum under way. The group must outlive it.
  class Reduction {
   public:
    struct State;
    explicit Reduction(std::unique_ptr<State> state);
    Reduction(Reduction&&) noexcept;
    ~Reduction();
    /// Once. On a GPU it is the device's current stream that waits, not the host. Errors: RANK_LOST, also for a sum that
    /// could not start.
    Status Wait();

   private:
    std::unique_ptr<State> state_;
  };

  /// The tensor becomes the sum over all ranks, in place: contiguous, float32 or float64, any shape but empty. Do not touch
  /// it before Wait() has returned.
  Reduction StartSum(at::Tensor tensor);
  Status Sum(const at::Tensor& tensor) { return StartSum(tensor).Wait(); }
  /// Returns once all ranks have called it; on a GPU too.
  Status Barrier();

 private:
  struct Impl;
  explicit ProcessGroup(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sbora::trainer
