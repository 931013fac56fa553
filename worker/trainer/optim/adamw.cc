#include "worker/trainer/optim/adamw.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace sbora::trainer {

AdamW::AdamW(const at::Tensor& parameters, const AdamWOptions& options, int64_t page_elements)
    : Optimizer(parameters),
      options_(options),
      step_count_(at::zeros({}, parameters.options())),
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

void AdamW::Update(at::Tensor parameters, at::Tensor gradients, const at::Tensor& not_finite, double learning_rate) {
  step_count_.fill_(static_cast<double>(steps()));
  if (!pages_) {
    UpdateRange(std::move(parameters), std::move(gradients), first_moment_, second_moment_, not_finite, learning_rate);
    return;
  }
  pages_->Visit([&](size_t page, const std::vector<at::Tensor>& state) {
    const int64_t offset = static_cast<int64_t>(page) * page_elements_;
    const int64_t size = state[0].numel();
    UpdateRange(parameters.narrow(0, offset, size), gradients.narrow(0, offset, size), state[0], state[1], not_finite,
                learning_rate);
  });
}

void AdamW::UpdateRange(at::Tensor parameters, at::Tensor gradients, at::Tensor m, at::Tensor v, const at::Tensor& not_finite,
                        double learning_rate) {
  std::vector<at::Tensor> parameter_list{std::move(parameters)}, gradient_list{std::move(gradients)}, first{std::move(m)},
      second{std::move(v)}, step_list{step_count_};
  at::_fused_adamw_(parameter_list, gradient_list, first, second, /*max_exp_avg_sqs=*/{}, step_list, learning_rate,
                    options_.beta1, options_.beta2, options_.weight_decay, options_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false, /*grad_scale=*/{}, not_finite);
}

}  // namespace sbora::trainer
