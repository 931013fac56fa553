#include "worker/trainer/optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <vector>

#include "common/check.h"

namespace sbora::trainer {
namespace {

// clip_grad_norm_ divides by norm + 1e-6, so that the result is at most the limit.
constexpr double kClipEpsilon = 1e-6;

}  // namespace

AdamW::AdamW(const at::Tensor& parameters, const AdamWOptions& options)
    : options_(options),
      first_moment_(at::zeros_like(parameters)),
      second_moment_(at::zeros_like(parameters)),
      step_count_(at::zeros({}, parameters.options())),
      not_finite_(at::zeros({}, parameters.options())) {
  SBORA_CHECK(parameters.scalar_type() == at::kFloat && parameters.is_contiguous(),
              "AdamW needs one contiguous float32 buffer");
}

at::Tensor AdamW::Step(const at::Tensor& parameters, const at::Tensor& gradients, const at::Tensor& loss_sum,
                       double learning_rate, double max_gradient_norm) {
  const at::NoGradGuard no_grad;
  const at::Tensor norm = at::linalg_vector_norm(gradients, 2, at::OptionalIntArrayRef(), false, at::kDouble);
  const at::Tensor loss = loss_sum.detach().to(at::kDouble);
  not_finite_.copy_(at::logical_or(not_finite_ != 0, at::logical_not(at::isfinite(norm + loss))));
  at::Tensor gradient = gradients;
  if (max_gradient_norm > 0) {
    gradient.mul_(at::clamp_max(max_gradient_norm / (norm + kClipEpsilon), 1.0).to(at::kFloat));
  }
  ++steps_;
  step_count_.fill_(static_cast<double>(steps_));
  at::Tensor parameter = parameters;
  std::vector<at::Tensor> parameter_list{parameter}, gradient_list{gradient}, first{first_moment_},
      second{second_moment_}, steps{step_count_};
  at::_fused_adamw_(parameter_list, gradient_list, first, second, /*max_exp_avg_sqs=*/{}, steps, learning_rate,
                    options_.beta1, options_.beta2, options_.weight_decay, options_.epsilon, /*amsgrad=*/false,
                    /*maximize=*/false, /*grad_scale=*/{}, not_finite_);
  parameter.unsafeGetTensorImpl()->bump_version();  // the fused kernel does not
  return at::stack({loss, norm, not_finite_.to(at::kDouble)});
}

AdamW::StepReport AdamW::Read(const at::Tensor& readback) {
  const at::Tensor host = readback.cpu();
  const double* values = host.const_data_ptr<double>();
  return {.loss_sum = values[0], .gradient_norm = values[1], .finite = values[2] == 0.0};
}

}  // namespace sbora::trainer
