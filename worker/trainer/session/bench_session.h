/// Speed of training on this machine, through the same loop as a real run. Torch-free border, as train_session.h.
#pragma once

#include <cstdint>
#include <filesystem>

#include "common/status.h"
#include "core/job_spec.h"
#include "worker/trainer/session/device.h"

namespace sbora::trainer {

struct BenchRequest {
  core::AdapterSpec adapter;         ///< indices, or A, are drawn from index_seed
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
  int64_t weight_bytes = 0;  ///< of the base as it is held
  int threads = 0;
  bool random_weights = false;
  int64_t peak_memory_bytes = 0;  ///< of this process, loading included
  int64_t peak_device_bytes = 0;  ///< of tensors on a GPU since the base was there, the base included; 0 on the CPU
};

StatusOr<BenchReport> RunBench(const BenchRequest& request);

}  // namespace sbora::trainer
