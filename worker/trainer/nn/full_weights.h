/// All weights of a model as one trained vector: full fine-tuning.
///
///     SBORA_ASSIGN_OR_RETURN(auto full, model->TrainAllWeights());
///     full->ZeroGradients();
///     model->ForwardLoss(batch, nullptr, {.training = true}).sum.backward();   // adds into full->gradients()
///     optimizer.Step(full->parameters(), full->gradients(), ...);              // the model has changed
///
/// The vectors are laid out in the order in which a backward pass finishes the tensors: the head when it has weights of
/// its own, the last norm, the layers from the last to the first, the embedding. A tied embedding is one tensor with
/// one gradient, to which head and input both add.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/model_config.h"
#include "core/safetensors.h"
#include "worker/trainer/nn/trained_parameters.h"

namespace sbora::trainer {

class FullWeights : public TrainedParameters {
 public:
  /// One tensor of the checkpoint, by Hugging Face name, F32: the elements from `offset` on, row-major.
  struct Entry {
    core::TensorSpec spec;
    int64_t offset = 0;
    int64_t size = 0;
  };

  /// Room for a model of this config: the parameters are not filled in (LlamaModel::TrainAllWeights does), the gradients
  /// are zero.
  static std::unique_ptr<FullWeights> Create(const core::ModelConfig& config, at::Device device);

  /// In the order of the vectors, which they cover.
  const std::vector<Entry>& entries() const { return entries_; }
  /// Views of the vectors in the entry's shape.
  at::Tensor Value(const Entry& entry) const;
  at::Tensor Gradient(const Entry& entry) const;

 private:
  FullWeights() = default;
  std::vector<Entry> entries_;
};

}  // namespace sbora::trainer
