/// Where a task computes. Plain data.
#pragma once

#include <string>

#include "core/job_spec.h"

namespace sbora::trainer {

struct DevicePlan {
  std::string device = "cpu";  ///< "cpu" or "cuda:0"
  core::ComputeDtype dtype = core::ComputeDtype::kAuto;  ///< kAuto: float32 on CPU, bfloat16 on CUDA
  int threads = 0;             ///< CPU threads; 0 keeps LibTorch's own choice
  /// `threads` is what the spec asks for. Else it is what there is, and a resumed run takes no more than that but, if
  /// that suffices, as many as its checkpoint was made with.
  bool threads_fixed = false;
};

}  // namespace sbora::trainer
