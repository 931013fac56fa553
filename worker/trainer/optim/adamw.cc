#include "worker/trainer/optim/adamw.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

namespace sbora::trainer {

AdamW::AdamW(const at::Tensor& parameters, const AdamWOptions& options)
    : Optimizer(parameters),
      options_(options),
      first_moment_(at::zeros_like(parameters)),
      second_moment_(at::zeros_like(parameters)),
      step_count_(at::zeros({}, parameters.options())) {}

std::vector<Optimizer::StateTensor> AdamW::State() const { return {{"m", first_moment_}, {"v", second_moment_}}; }

void AdamW::Update(at::Tensor parameters, at::Tensor gradients, const at::Tensor& not_finite, double learning_rate) {
  step_count_.fill_(static_cast<double>(steps()));
  std::vector<at::Tensor> parameter_list{std::move(parameters)}, gradient_list{std::move(gradients)}, first{first_moment_},
      second{second_moment_}, step_list{step_count_};
  at::_fused_adamw_(parameter_list, gradient_list, first, second, /*max_exp_avg_sqs=*/{}, step_list, learning_rate,
                    options_.beta1, options_.beta2, options_.weight_decay, options_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false, /*grad_scale=*/{}, not_finite);
}

}  // namespace sbora::trainer
