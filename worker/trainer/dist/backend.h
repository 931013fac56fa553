/// How the two kinds of c10d groups are made. For process_group.cc only.
#pragma once

#include <c10/core/Device.h>

#include <chrono>
#include <string>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace sbora::trainer {

struct BackendOptions {
  int rank = 0;
  int world_size = 1;
  at::Device device = at::kCPU;
  std::string listen_on;  ///< Gloo: name or address for the connections of other ranks
  std::chrono::milliseconds join_timeout{};
  std::chrono::milliseconds sum_timeout{};
};

/// Connects to all other ranks. Throws what c10d throws.
c10::intrusive_ptr<c10d::Backend> MakeGlooBackend(const c10::intrusive_ptr<c10d::Store>& store, const BackendOptions& options);
/// In builds with CUDA only. Connects at the first sum.
c10::intrusive_ptr<c10d::Backend> MakeNcclBackend(const c10::intrusive_ptr<c10d::Store>& store, const BackendOptions& options);

}  // namespace sbora::trainer
