/// What a run trains, whatever the method: an adapter beside a model's frozen weights, or the model's own weights; and the
/// optimiser over it. Include only from .cc files that see LibTorch.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/status.h"
#include "core/adapter.h"
#include "core/compute_form.h"
#include "core/job_spec.h"
#include "core/safetensors.h"
#include "worker/trainer/checkpoint/adapter_layout.h"
#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/nn/full_weights.h"
#include "worker/trainer/nn/llama.h"
#include "worker/trainer/optim/optimizer.h"
#include "worker/trainer/session/train_session.h"

namespace sbora::trainer {

class Trainee {
 public:
  /// As training starts. `indices`: as TrainRequest. `config`: of the artifact. The model must outlive it, and is changed
  /// by full fine-tuning (LlamaModel::TrainAllWeights) and by a merged adapter (LlamaModel::BeginMerged, until the trainee
  /// goes). `form`: none for core::ChooseComputeForm's. Errors: those of CreateAdapter, TrainAllWeights and core::CheckMerged.
  static StatusOr<std::unique_ptr<Trainee>> Create(LlamaModel& model, const core::AdapterSpec& spec,
                                                   const std::vector<ModuleIndices>& indices,
                                                   const core::AdapterConfig& config,
                                                   const std::function<void()>& alive = {},
                                                   std::optional<core::ComputeForm> form = {});
  /// Nothing: to measure forward pass and input gradient alone (TrainContext::input_gradient).
  static std::unique_ptr<Trainee> Nothing(const LlamaModel& model);
  ~Trainee();

  TrainedParameters& trained();
  /// Null: the model's own weights are trained, or nothing.
  AdapterSet* adapter() { return adapter_.get(); }
  core::ComputeForm form() const { return merged_into_ == nullptr ? core::ComputeForm::kPlain : core::ComputeForm::kMerged; }
  /// Names and places of the trained tensors on disk.
  const AdapterLayout& layout() const { return layout_; }

 private:
  struct NoParameters;
  Trainee() = default;
  std::unique_ptr<AdapterSet> adapter_;  // one of the three
  std::unique_ptr<FullWeights> full_;
  std::unique_ptr<NoParameters> nothing_;
  LlamaModel* merged_into_ = nullptr;  // borrowed; null: the adapter is not merged
  AdapterLayout layout_;
};

/// A paged one keeps its state on the host where that is not the device.
std::unique_ptr<Optimizer> MakeOptimizer(const core::TrainingSpec& training, Trainee& trainee);

/// The optimiser's tensors as a checkpoint has them.
std::vector<core::TensorSpec> StateLayout(const Optimizer& optimizer);

/// A device tensor's bytes on the host: its own memory where it is there already, else a copy. Contiguous.
class HostBytes {
 public:
  explicit HostBytes(const at::Tensor& tensor);

  std::span<const std::byte> bytes() const;
  /// REQUIRED: float32.
  std::span<const float> floats() const;
  /// To be written, then taken over by Commit.
  std::span<std::byte> mutable_bytes();
  std::span<float> mutable_floats();
  /// Makes what was written the tensor's, whose version tells.
  void Commit();

 private:
  at::Tensor tensor_;
  at::Tensor host_;
};

}  // namespace sbora::trainer
