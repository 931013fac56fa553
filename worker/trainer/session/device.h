/// Where a task computes. Plain data.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "core/job_spec.h"
#include "worker/trainer/dist/over_workers.h"

namespace sbora::trainer {

struct DevicePlan {
  std::string device = "cpu";  ///< "cpu" or "cuda:0"
  core::ComputeDtype dtype = core::ComputeDtype::kAuto;  ///< kAuto: float32 on CPU, bfloat16 on CUDA
  int threads = 0;             ///< CPU threads; 0 keeps LibTorch's own choice
  /// `threads` is what the spec asks for. Else it is what there is, and a resumed run takes no more than that but, if
  /// that suffices, as many as its checkpoint was made with.
  bool threads_fixed = false;
};

/// Which of an attempt's ranks this process is.
struct GangPlace {
  int rank = 0;
  int world_size = 1;
  std::filesystem::path rendezvous_file;  ///< where the ranks of this attempt meet; not read when there is one
  std::optional<OverWorkers> over_workers = std::nullopt;  ///< ranks on several workers meet at an address instead

  /// The one rank that writes files and tells the agent more than that it lives.
  bool leads() const { return rank == 0; }
};

}  // namespace sbora::trainer
