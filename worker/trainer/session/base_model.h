/// The frozen base of a run, plain or in NF4. Include only from .cc files that see LibTorch.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/status.h"
#include "core/adapter.h"
#include "worker/trainer/nn/llama.h"
#include "worker/trainer/session/task_observer.h"
#include "worker/trainer/session/torch_runtime.h"

namespace sbora::trainer {

struct BaseRequest {
  std::filesystem::path model_dir;       ///< a plain model, or one that is in NF4 itself (core/nf4_merge.h)
  std::filesystem::path nf4_dir;         ///< a plain model in NF4 (session/quantize_base.h); read when quantization asks
  std::string base_hash;                 ///< of model_dir; the NF4 folder must name it. Empty: not checked
  core::BaseQuantization quantization;   ///< how the base is to be held
};

/// How model_dir's own files hold the weights. Errors: those of core::ParseModelForm and of reading its config.json.
StatusOr<core::BaseQuantization> HeldBy(const std::filesystem::path& model_dir);

/// With progress for each tensor. Says in a QUANTIZED_BASE event what an NF4 base takes.
/// Errors: those of LlamaModel::Load and LoadNf4; FAILED_PRECONDITION NF4_BASE_MISSING when nf4_dir is empty and needed,
/// NF4_BASE_MISMATCH when that folder was made of another base or in another way, or model_dir is in NF4 and quantization asks
/// for something else.
StatusOr<std::unique_ptr<LlamaModel>> LoadBase(const BaseRequest& request, const TorchPlan& plan, TaskObserver& observer);

}  // namespace sbora::trainer
