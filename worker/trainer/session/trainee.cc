#include "worker/trainer/session/trainee.h"

#include <ATen/ATen.h>

#include <utility>

#include "common/check.h"
#include "common/status_macros.h"
#include "core/estimate.h"
#include "kernels/adamw8bit/adamw8bit.h"
#include "worker/trainer/optim/adamw.h"
#include "worker/trainer/optim/adamw8bit.h"
#include "worker/trainer/session/adapter_binding.h"

namespace sbora::trainer {
namespace {

static_assert(core::k8BitBlock == kernels::kAdamW8BitBlock, "the estimate counts other blocks");

AdapterLayout LayoutOf(const FullWeights& full, const core::AdapterConfig& config) {
  AdapterLayout layout;
  layout.parameter_count = full.parameter_count();
  layout.metadata = core::AdapterMetadata(config);
  for (const FullWeights::Entry& entry : full.entries()) {
    layout.factors.push_back({.name = entry.spec.name, .shape = entry.spec.shape, .offset = entry.offset});
  }
  return layout;
}

core::DType StateDType(const at::Tensor& tensor) {
  if (tensor.scalar_type() == at::kByte) return core::DType::kU8;
  SBORA_CHECK(tensor.scalar_type() == at::kFloat, "an optimiser keeps {}", c10::toString(tensor.scalar_type()));
  return core::DType::kF32;
}

}  // namespace

struct Trainee::NoParameters : TrainedParameters {
  explicit NoParameters(at::Device device) {
    parameters_ = at::zeros({0}, at::TensorOptions(at::kFloat).device(device));
    gradients_ = at::zeros_like(parameters_);
  }
};

StatusOr<std::unique_ptr<Trainee>> Trainee::Create(LlamaModel& model, const core::AdapterSpec& spec,
                                                   const std::vector<ModuleIndices>& indices,
                                                   const core::AdapterConfig& config,
                                                   const std::function<void()>& alive,
                                                   std::optional<core::ComputeForm> form) {
  const core::ComputeFormFacts facts{.method = spec.method, .dropout = spec.dropout, .quantized_base = model.quantized(),
                                     .float32 = model.dtype() == at::kFloat};
  if (!form) form = core::ChooseComputeForm(facts);
  if (*form == core::ComputeForm::kMerged) SBORA_RETURN_IF_ERROR(core::CheckMerged(facts));
  auto trainee = std::unique_ptr<Trainee>(new Trainee());
  if (spec.method == core::AdapterMethod::kFull) {
    SBORA_ASSIGN_OR_RETURN(trainee->full_, model.TrainAllWeights());
    trainee->layout_ = LayoutOf(*trainee->full_, config);
    return trainee;
  }
  SBORA_ASSIGN_OR_RETURN(trainee->adapter_, CreateAdapter(model, spec, indices, alive));
  trainee->layout_ = trainer::LayoutOf(*trainee->adapter_, config);
  if (*form == core::ComputeForm::kMerged) {
    model.BeginMerged(*trainee->adapter_);
    trainee->merged_into_ = &model;
  }
  return trainee;
}

std::unique_ptr<Trainee> Trainee::Nothing(const LlamaModel& model) {
  auto trainee = std::unique_ptr<Trainee>(new Trainee());
  trainee->nothing_ = std::make_unique<NoParameters>(model.device());
  return trainee;
}

Trainee::~Trainee() {
  if (merged_into_ != nullptr) merged_into_->EndMerged();
}

TrainedParameters& Trainee::trained() {
  if (adapter_) return *adapter_;
  if (nothing_) return *nothing_;
  return *full_;
}

std::unique_ptr<Optimizer> MakeOptimizer(const core::TrainingSpec& training, Trainee& trainee) {
  const AdamWOptions options{.beta1 = training.beta1,
                             .beta2 = training.beta2,
                             .epsilon = training.epsilon,
                             .weight_decay = training.weight_decay};
  const at::Tensor& parameters = trainee.trained().parameters();
  const int64_t page_elements = training.paged_optimizer && !parameters.is_cpu() ? core::kPageElements : 0;
  if (training.optimizer == core::OptimizerKind::kAdamW) return std::make_unique<AdamW>(parameters, options, page_elements);
  std::vector<AdamW8Bit::Part> parts;
  for (const AdapterLayout::Factor& factor : trainee.layout().factors) {
    parts.push_back({.offset = factor.offset, .size = c10::multiply_integers(factor.shape)});
  }
  return std::make_unique<AdamW8Bit>(parameters, options, std::move(parts), core::kMin8BitElements, page_elements);
}

std::vector<core::TensorSpec> StateLayout(const Optimizer& optimizer) {
  std::vector<core::TensorSpec> layout;
  for (const auto& [name, value] : optimizer.State()) layout.push_back({name, StateDType(value), value.sizes().vec()});
  return layout;
}

HostBytes::HostBytes(const at::Tensor& tensor) : tensor_(tensor), host_(tensor.cpu()) {
  SBORA_CHECK(host_.is_contiguous(), "a tensor of {} elements is not contiguous", tensor.numel());
}

std::span<const std::byte> HostBytes::bytes() const {
  return {static_cast<const std::byte*>(host_.const_data_ptr()), host_.nbytes()};
}

std::span<const float> HostBytes::floats() const {
  return {host_.const_data_ptr<float>(), static_cast<size_t>(host_.numel())};
}

std::span<std::byte> HostBytes::mutable_bytes() {
  return {static_cast<std::byte*>(host_.mutable_data_ptr()), host_.nbytes()};
}

std::span<float> HostBytes::mutable_floats() {
  return {host_.mutable_data_ptr<float>(), static_cast<size_t>(host_.numel())};
}

void HostBytes::Commit() {
  if (host_.is_same(tensor_)) {
    tensor_.unsafeGetTensorImpl()->bump_version();
  } else {
    tensor_.copy_(host_);
  }
}

}  // namespace sbora::trainer
