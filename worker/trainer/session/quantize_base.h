/// A plain base becomes an NF4 base (core/nf4_model.h): the kernels of kernels/nf4 over each linear weight. Torch-free.
#pragma once

#include <filesystem>
#include <string>

#include "common/status.h"
#include "core/nf4_model.h"
#include "worker/trainer/session/task_observer.h"

namespace sbora::trainer {

struct QuantizeRequest {
  std::filesystem::path model_dir;  ///< a plain base
  std::filesystem::path output_dir;
  bool double_quantization = true;
  std::string base_hash;  ///< of model_dir; empty: computed
  int threads = 1;        ///< share the blocks of a weight; the bytes do not depend on it
};

/// Errors: those of core::ModelFolder::Open and core::WriteNf4Model; INVALID_ARGUMENT NF4_SCALE naming the weight that
/// holds a value that is not finite; CANCELLED when the observer asks to stop.
StatusOr<core::Nf4Config> QuantizeBase(const QuantizeRequest& request, TaskObserver& observer);

}  // namespace sbora::trainer
