#include "worker/trainer/ops/frozen_layers.h"

#include <ATen/ATen.h>

#include <utility>

#include "common/check.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

struct RmsNormBackward final : torch::autograd::Node {
  at::Tensor x_TH;
  at::Tensor weight_H;
  at::Tensor weight_gradient_H;  // undefined when the weight is frozen
  at::Tensor inverse_T1;         // f32

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    SBORA_CHECK(x_TH.defined(), "second backward through RmsNorm");
    // With n = x * inverse: dx = inverse * (gw - n * mean(gw * n)).
    const at::Tensor n_TH = x_TH.to(at::kFloat) * inverse_T1;
    if (weight_gradient_H.defined()) weight_gradient_H.add_((grads[0].to(at::kFloat) * n_TH).sum(0));
    if (!task_should_compute_output(0)) return {at::Tensor()};
    const at::Tensor gw_TH = grads[0].to(at::kFloat) * weight_H.to(at::kFloat);
    const at::Tensor dot_T1 = (gw_TH * n_TH).mean(-1, /*keepdim=*/true);
    at::Tensor dx_TH = at::addcmul(gw_TH, n_TH, dot_T1, -1).mul_(inverse_T1);
    return {dx_TH.to(x_TH.scalar_type())};
  }
  void release_variables() override { x_TH.reset(); }
};

struct SwiGluBackward final : torch::autograd::Node {
  at::Tensor gate_TF;
  at::Tensor up_TF;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor()};
    SBORA_CHECK(gate_TF.defined(), "second backward through SwiGlu");
    at::Tensor up_grad_TF = at::silu(gate_TF).mul_(grads[0]);
    at::Tensor gate_grad_TF = at::silu_backward(grads[0] * up_TF, gate_TF);
    return {std::move(gate_grad_TF), std::move(up_grad_TF)};
  }
  void release_variables() override {
    gate_TF.reset();
    up_TF.reset();
  }
};

/// Rotation by the angle whose cosine and sine are given; `direction` -1 is its inverse, which is its gradient.
at::Tensor Rotate(const at::Tensor& x_TD, const at::Tensor& cos_TD2, const at::Tensor& sin_TD2, int64_t head_dim,
                  double direction) {
  const int64_t half = head_dim / 2;
  const at::Tensor x = x_TD.contiguous().view({x_TD.size(0), -1, 2, half});
  const at::Tensor cos = cos_TD2.unsqueeze(1).to(x.scalar_type());
  const at::Tensor sin = sin_TD2.unsqueeze(1).to(x.scalar_type());
  const at::Tensor first = x.select(2, 0);
  const at::Tensor second = x.select(2, 1);
  at::Tensor out = at::empty_like(x);
  at::Tensor out_first = out.select(2, 0);
  at::Tensor out_second = out.select(2, 1);
  at::mul_out(out_first, first, cos);
  out_first.addcmul_(second, sin, -direction);
  at::mul_out(out_second, second, cos);
  out_second.addcmul_(first, sin, direction);
  return out.view(x_TD.sizes());
}

struct RopeBackward final : torch::autograd::Node {
  at::Tensor cos_TD2;
  at::Tensor sin_TD2;
  int64_t head_dim = 0;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    return {Rotate(grads[0], cos_TD2, sin_TD2, head_dim, -1)};
  }
};

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x_TH, const at::Tensor& weight_H, double eps, const at::Tensor& weight_gradient_H) {
  at::Tensor y_TH;
  at::Tensor inverse_T1;
  {
    at::NoGradGuard no_grad;
    const at::Tensor wide_TH = x_TH.to(at::kFloat);
    inverse_T1 = wide_TH.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
    // As transformers does: round the normalised value to the compute dtype before the weight multiplies it.
    y_TH = (wide_TH * inverse_T1).to(x_TH.scalar_type()).mul_(weight_H);
  }
  if (NeedsGraph(x_TH) || (weight_gradient_H.defined() && at::GradMode::is_enabled())) {
    auto node = std::make_shared<RmsNormBackward>();
    node->x_TH = x_TH.detach();
    node->weight_H = weight_H;
    node->weight_gradient_H = weight_gradient_H;
    node->inverse_T1 = inverse_T1;
    Record(y_TH, std::move(node), x_TH);
  }
  return y_TH;
}

at::Tensor SwiGlu(const at::Tensor& gate_TF, const at::Tensor& up_TF) {
  at::Tensor y_TF;
  {
    at::NoGradGuard no_grad;
    y_TF = at::silu(gate_TF).mul_(up_TF);
  }
  if (NeedsGraph(gate_TF, up_TF)) {
    auto node = std::make_shared<SwiGluBackward>();
    node->gate_TF = gate_TF.detach();
    node->up_TF = up_TF.detach();
    Record(y_TF, std::move(node), gate_TF, up_TF);
  }
  return y_TF;
}

at::Tensor Rope(const at::Tensor& x_TD, const at::Tensor& cos_TD2, const at::Tensor& sin_TD2, int64_t head_dim) {
  at::Tensor y_TD;
  {
    at::NoGradGuard no_grad;
    y_TD = Rotate(x_TD.detach(), cos_TD2, sin_TD2, head_dim, 1);
  }
  if (NeedsGraph(x_TD)) {
    auto node = std::make_shared<RopeBackward>();
    node->cos_TD2 = cos_TD2;
    node->sin_TD2 = sin_TD2;
    node->head_dim = head_dim;
    Record(y_TD, std::move(node), x_TD);
  }
  return y_TD;
}

}  // namespace sbora::trainer::ops
