#include "worker/trainer/optim/adamw.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "kernels/adamw/adamw.h"
#include "worker/trainer/ops/kernel_call.h"

namespace sbora::trainer {

AdamW::AdamW(const at::Tensor& parameters, const AdamWOptions& options, int64_t page_elements)
    : Optimizer(parameters),
      options_(options),
      page_elements_(page_elements) {
  const int64_t count = parameters.numel();
  if (page_elements == 0) {
    first_moment_ = at::zeros_like(parameters);
    second_moment_ = at::zeros_like(parameters);
    return;
  }
  first_moment_ = StatePages::HostZeros(count, at::kFloat, parameters.device());
  second_moment_ = StatePages::HostZeros(count, at::kFloat, parameters.device());
  std::vector<StatePages::Page> pages;
  for (int64_t offset = 0; offset < count; offset += page_elements) {
    const StatePages::Slice slice{.offset = offset, .size = std::min(page_elements, count - offset)};
    pages.push_back({slice, slice});
  }
  pages_ = std::make_unique<StatePages>(std::vector<at::Tensor>{first_moment_, second_moment_}, std::move(pages),
                                        parameters.device());
}

std::vector<Optimizer::StateTensor> AdamW::State() const {
  if (pages_) pages_->Settle();
  return {{"m", first_moment_}, {"v", second_moment_}};
}

void AdamW::Update(at::Tensor parameters, at::Tensor gradients, const StepScalars& scalars, double learning_rate) {
  if (!pages_) {
    UpdateRange(parameters, gradients, first_moment_, second_moment_, scalars, learning_rate);
    return;
  }
  pages_->Visit([&](size_t page, const std::vector<at::Tensor>& state) {
    const int64_t offset = static_cast<int64_t>(page) * page_elements_;
    const int64_t size = state[0].numel();
    UpdateRange(parameters.narrow(0, offset, size), gradients.narrow(0, offset, size), state[0], state[1], scalars,
                learning_rate);
  });
}

void AdamW::UpdateRange(const at::Tensor& parameters, const at::Tensor& gradients, const at::Tensor& m, const at::Tensor& v,
                        const StepScalars& scalars, double learning_rate) const {
  const kernels::AdamWArguments arguments{
      .step = {.beta1 = options_.beta1, .beta2 = options_.beta2, .epsilon = options_.epsilon,
               .weight_decay = options_.weight_decay, .learning_rate = learning_rate, .step = steps()},
      .elements = parameters.numel(),
      .parameters = parameters.mutable_data_ptr<float>(),
      .gradients = gradients.const_data_ptr<float>(),
      .m = m.mutable_data_ptr<float>(),
      .v = v.mutable_data_ptr<float>(),
      .gradient_factor = scalars.gradient_factor.defined() ? scalars.gradient_factor.const_data_ptr<float>() : nullptr,
      .skip = scalars.not_finite.const_data_ptr<float>()};
  ops::RunKernel(ops::PlaceOf(parameters), kernels::UpdateAdamW, arguments, arguments.elements, 1);
}

}  // namespace sbora::trainer
