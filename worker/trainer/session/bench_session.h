/// Speed of training on this machine, through the same loop as a real run. Torch-free border, as train_session.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "common/status.h"
#include "core/compute_form.h"
#include "core/job_spec.h"
#include "worker/trainer/session/device.h"

namespace sbora::trainer {

struct BenchRequest {
  core::AdapterSpec adapter;         ///< indices, or A, are drawn from index_seed
  std::optional<core::ComputeForm> form;  ///< none: core::ChooseComputeForm's
  bool frozen = false;               ///< no adapter: the frozen base's forward pass and input gradient, down to the first
                                     ///< layer's q, k and v, whose own input gradient an adapter would not need either
  int64_t micro_batch = 4;           ///< samples of a step
  int64_t warmup_steps = 2;          ///< run first, not measured
  int64_t steps = 10;                ///< measured
  core::BaseQuantization quantization;
  bool gradient_checkpointing = false;
  core::OptimizerKind optimizer = core::OptimizerKind::kAdamW;
  std::filesystem::path model_dir;   ///< with config.json alone: seeded random weights
  std::filesystem::path token_cache;
  DevicePlan device;
};

struct BenchReport {
  double tokens_per_second = 0;  ///< non-padding tokens
  double seconds = 0;            ///< of the measured steps
  int64_t tokens = 0;            ///< of the measured steps
  int64_t steps = 0;
  double first_loss = 0;
  double last_loss = 0;
  int64_t trainable_parameters = 0;
  core::ComputeForm form = core::ComputeForm::kPlain;  ///< of the adapter
  bool frozen = false;                                 ///< there was none
  int64_t weight_bytes = 0;  ///< of the base as it is held
  int threads = 0;
  bool random_weights = false;
  int64_t peak_memory_bytes = 0;  ///< of this process, loading included
  int64_t peak_device_bytes = 0;  ///< of tensors on a GPU since the base was there, the base included; 0 on the CPU
};

/// Errors: those of core::CheckMerged when the form is asked for; of loading and training.
StatusOr<BenchReport> RunBench(const BenchRequest& request);

}  // namespace sbora::trainer
