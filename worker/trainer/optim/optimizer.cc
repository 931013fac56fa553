#include "worker/trainer/optim/optimizer.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "common/check.h"

namespace sbora::trainer {
namespace {

// clip_grad_norm_ divides by norm + 1e-6, so that the result is at most the limit.
constexpr double kClipEpsilon = 1e-6;

}  // namespace

Optimizer::Optimizer(const at::Tensor& parameters) : not_finite_(at::zeros({}, parameters.options())) {
  SBORA_CHECK(parameters.scalar_type() == at::kFloat && parameters.is_contiguous(),
              "an optimiser needs one contiguous float32 buffer");
}

at::Tensor Optimizer::Step(const at::Tensor& parameters, const at::Tensor& gradients, const at::Tensor& loss_sum,
                           double learning_rate, double max_gradient_norm) {
  const at::NoGradGuard no_grad;
  const at::Tensor norm = at::linalg_vector_norm(gradients, 2, at::OptionalIntArrayRef(), false, at::kDouble);
  const at::Tensor loss = loss_sum.detach().to(at::kDouble);
  not_finite_.copy_(at::logical_or(not_finite_ != 0, at::logical_not(at::isfinite(norm + loss))));
  StepScalars scalars{.gradient_factor = {}, .not_finite = not_finite_};
  if (max_gradient_norm > 0) {
    scalars.gradient_factor = at::clamp_max(max_gradient_norm / (norm + kClipEpsilon), 1.0).to(at::kFloat);
  }
  ++steps_;
  Update(parameters, gradients, scalars, learning_rate);
  parameters.unsafeGetTensorImpl()->bump_version();  // fused kernels do not
  return at::stack({loss, norm, not_finite_.to(at::kDouble)});
}

Optimizer::StepReport Optimizer::Read(const at::Tensor& readback) {
  const at::Tensor host = readback.cpu();
  const double* values = host.const_data_ptr<double>();
  return {.loss_sum = values[0], .gradient_norm = values[1], .finite = values[2] == 0.0};
}

}  // namespace sbora::trainer
