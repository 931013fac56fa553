/// What training changes, whatever the method: an adapter's factors (adapter_set.h) or all weights (full_weights.h) as two
/// flat vectors. Optimiser, clipping, all-reduce and checkpoints see nothing else.
///
/// Ownership: owns both; tensors of the model or the adapter alias them. Threading: one thread at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sbora::trainer {

class TrainedParameters {
 public:
  TrainedParameters(const TrainedParameters&) = delete;
  TrainedParameters& operator=(const TrainedParameters&) = delete;

  /// [P] float32, contiguous. Write with in-place operations of LibTorch only: named tensors alias it, and
  /// AdapterSet::RowNorms sees a change by the tensor's version.
  const at::Tensor& parameters() const { return parameters_; }
  /// [P] float32, contiguous. Backward passes add to it.
  const at::Tensor& gradients() const { return gradients_; }
  int64_t parameter_count() const { return parameters_.numel(); }
  void ZeroGradients();

 protected:
  TrainedParameters() = default;
  ~TrainedParameters() = default;

  at::Tensor parameters_;
  at::Tensor gradients_;
};

}  // namespace sbora::trainer
