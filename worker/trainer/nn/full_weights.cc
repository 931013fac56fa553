#include "worker/trainer/nn/full_weights.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace sbora::trainer {

std::unique_ptr<FullWeights> FullWeights::Create(const core::ModelConfig& config, at::Device device) {
  auto full = std::unique_ptr<FullWeights>(new FullWeights());
  std::vector<core::TensorSpec> specs = core::ExpectedTensors(config);  // in forward order
  std::reverse(specs.begin(), specs.end());
  int64_t offset = 0;
  for (core::TensorSpec& spec : specs) {
    spec.dtype = core::DType::kF32;
    const int64_t size = c10::multiply_integers(spec.shape);
    full->entries_.push_back({.spec = std::move(spec), .offset = offset, .size = size});
    offset += size;
  }
  const auto floats = at::TensorOptions().dtype(at::kFloat).device(device);
  full->parameters_ = at::empty({offset}, floats);
  full->gradients_ = at::zeros({offset}, floats);
  return full;
}

at::Tensor FullWeights::Value(const Entry& entry) const {
  return parameters_.narrow(0, entry.offset, entry.size).view(entry.spec.shape);
}

at::Tensor FullWeights::Gradient(const Entry& entry) const {
  return gradients_.narrow(0, entry.offset, entry.size).view(entry.spec.shape);
}

}  // namespace sbora::trainer
