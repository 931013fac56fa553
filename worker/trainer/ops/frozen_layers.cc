#include "worker/trainer/ops/frozen_layers.h"

#include <ATen/ATen.h>

#include <utility>

#include "common/check.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/swiglu/swiglu.h"
#include "worker/trainer/ops/kernel_call.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

/// As the kernels want rows: neighbours next to each other, at any stride from row to row.
at::Tensor Rows(const at::Tensor& x) { return x.stride(-1) == 1 ? x.detach() : x.detach().contiguous(); }

/// Of RmsNorm (gradients of the normed rows) and of AddRmsNorm (of the sum, and of the normed rows).
struct RmsNormBackward final : torch::autograd::Node {
  at::Tensor x_TH;  // what was normalised
  at::Tensor weight_H;
  at::Tensor weight_gradient_H;  // undefined when the weight is frozen
  at::Tensor inverse_T;
  bool has_sum = false;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor& normed_grad = grads.back();
    const at::Tensor sum_grad = has_sum ? grads[0] : at::Tensor();
    if (!normed_grad.defined()) return Results(sum_grad);
    SBORA_CHECK(x_TH.defined(), "second backward through RmsNorm");
    const at::Tensor g_TH = normed_grad.contiguous();
    const KernelPlace place = PlaceOf(x_TH);
    const kernels::DType dtype = KernelDType(x_TH.scalar_type());
    SBORA_CHECK(g_TH.scalar_type() == x_TH.scalar_type(), "a gradient of {} for {}", c10::toString(g_TH.scalar_type()),
                c10::toString(x_TH.scalar_type()));
    const int64_t rows = x_TH.size(0);
    const int64_t columns = x_TH.size(1);
    if (weight_gradient_H.defined()) {
      const kernels::RmsNormWeightArguments arguments{.rows = rows, .columns = columns, .stride = columns, .dtype = dtype,
                                                      .x_TH = x_TH.const_data_ptr(),
                                                      .inverse_T = inverse_T.const_data_ptr<float>(),
                                                      .grad_TH = g_TH.const_data_ptr(),
                                                      .dw_H = weight_gradient_H.mutable_data_ptr<float>()};
      RunKernel(place, kernels::RmsNormWeightGradient, arguments, columns, rows);
    }
    if (!task_should_compute_output(0) && !(has_sum && task_should_compute_output(1))) return Results({});
    const at::Tensor add_TH = sum_grad.defined() ? sum_grad.contiguous() : sum_grad;
    at::Tensor dx_TH = at::empty_like(x_TH);
    const kernels::RmsNormBackwardArguments arguments{.rows = rows, .columns = columns, .dtype = dtype,
                                                      .x_TH = x_TH.const_data_ptr(), .w_H = weight_H.const_data_ptr(),
                                                      .inverse_T = inverse_T.const_data_ptr<float>(),
                                                      .grad_TH = g_TH.const_data_ptr(),
                                                      .add_TH = add_TH.defined() ? add_TH.const_data_ptr() : nullptr,
                                                      .dx_TH = dx_TH.mutable_data_ptr()};
    RunKernel(place, kernels::RmsNormBackward, arguments, rows, columns);
    return Results(dx_TH);
  }
  void release_variables() override { x_TH.reset(); }

  /// The terms of a sum have the same gradient.
  variable_list Results(const at::Tensor& dx_TH) const { return has_sum ? variable_list{dx_TH, dx_TH} : variable_list{dx_TH}; }
};

/// `add_TH` undefined: x is normalised, and sum_TH is x.
struct NormResult {
  NormedSum out;
  at::Tensor inverse_T;
};
NormResult Normalise(const at::Tensor& x_TH, const at::Tensor& add_TH, const at::Tensor& weight_H, double eps) {
  SBORA_CHECK(weight_H.scalar_type() == x_TH.scalar_type() && weight_H.size(0) == x_TH.size(1), "RmsNorm: {} of {} for {} of {}",
              weight_H.size(0), c10::toString(weight_H.scalar_type()), x_TH.size(1), c10::toString(x_TH.scalar_type()));
  const at::Tensor input_TH = x_TH.detach().contiguous();
  const at::Tensor other_TH = add_TH.defined() ? add_TH.detach().contiguous() : add_TH;
  NormResult result{.out = {.sum_TH = input_TH, .normed_TH = at::empty_like(input_TH)},
                    .inverse_T = at::empty({x_TH.size(0)}, x_TH.options().dtype(at::kFloat))};
  kernels::RmsNormArguments arguments{.rows = x_TH.size(0), .columns = x_TH.size(1), .dtype = KernelDType(x_TH.scalar_type()),
                                      .epsilon = static_cast<float>(eps), .x_TH = input_TH.const_data_ptr(),
                                      .w_H = weight_H.const_data_ptr(), .y_TH = result.out.normed_TH.mutable_data_ptr(),
                                      .inverse_T = result.inverse_T.mutable_data_ptr<float>()};
  if (other_TH.defined()) {
    result.out.sum_TH = at::empty_like(input_TH);
    arguments.add_TH = other_TH.const_data_ptr();
    arguments.sum_TH = result.out.sum_TH.mutable_data_ptr();
  }
  RunKernel(PlaceOf(x_TH), kernels::RmsNorm, arguments, arguments.rows, arguments.columns);
  return result;
}

std::shared_ptr<RmsNormBackward> NormNode(const NormResult& result, const at::Tensor& weight_H,
                                          const at::Tensor& weight_gradient_H, bool has_sum) {
  auto node = std::make_shared<RmsNormBackward>();
  node->x_TH = result.out.sum_TH.detach();
  node->weight_H = weight_H;
  node->weight_gradient_H = weight_gradient_H;
  node->inverse_T = result.inverse_T;
  node->has_sum = has_sum;
  return node;
}

struct SwiGluBackward final : torch::autograd::Node {
  at::Tensor gate_TF;
  at::Tensor up_TF;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor()};
    SBORA_CHECK(gate_TF.defined(), "second backward through SwiGlu");
    const at::Tensor g_TF = Rows(grads[0]);
    at::Tensor dgate_TF = at::empty(gate_TF.sizes(), gate_TF.options());
    at::Tensor dup_TF = at::empty(up_TF.sizes(), up_TF.options());
    const kernels::SwiGluBackwardArguments arguments{
        .rows = gate_TF.size(0), .columns = gate_TF.size(1), .dtype = KernelDType(gate_TF.scalar_type()),
        .gate_TF = gate_TF.const_data_ptr(), .gate_stride = gate_TF.stride(0),
        .up_TF = up_TF.const_data_ptr(), .up_stride = up_TF.stride(0),
        .grad_TF = g_TF.const_data_ptr(), .grad_stride = g_TF.stride(0),
        .dgate_TF = dgate_TF.mutable_data_ptr(), .dgate_stride = dgate_TF.stride(0),
        .dup_TF = dup_TF.mutable_data_ptr(), .dup_stride = dup_TF.stride(0)};
    RunKernel(PlaceOf(gate_TF), kernels::SwiGluBackward, arguments, arguments.rows, arguments.columns);
    return {std::move(dgate_TF), std::move(dup_TF)};
  }
  void release_variables() override {
    gate_TF.reset();
    up_TF.reset();
  }
};

at::Tensor Rotate(const at::Tensor& x_TD, const at::Tensor& cos_TD2, const at::Tensor& sin_TD2, int64_t head_dim, bool inverse) {
  SBORA_CHECK(x_TD.size(1) % head_dim == 0 && cos_TD2.size(0) == x_TD.size(0) && cos_TD2.size(1) == head_dim / 2 &&
                  sin_TD2.sizes() == cos_TD2.sizes() && cos_TD2.is_contiguous() && sin_TD2.is_contiguous(),
              "Rope: tables of {} x {} for {} x {}", cos_TD2.size(0), cos_TD2.size(1), x_TD.size(0), x_TD.size(1));
  const at::Tensor rows_TD = Rows(x_TD);
  at::Tensor y_TD = at::empty(x_TD.sizes(), x_TD.options());
  const kernels::RopeArguments arguments{.rows = x_TD.size(0), .heads = x_TD.size(1) / head_dim, .head_dim = head_dim,
                                         .dtype = KernelDType(x_TD.scalar_type()), .inverse = inverse,
                                         .x_TD = rows_TD.const_data_ptr(), .x_stride = rows_TD.stride(0),
                                         .cos_TD2 = cos_TD2.const_data_ptr<float>(), .sin_TD2 = sin_TD2.const_data_ptr<float>(),
                                         .y_TD = y_TD.mutable_data_ptr()};
  RunKernel(PlaceOf(x_TD), kernels::Rope, arguments, arguments.rows, x_TD.size(1));
  return y_TD;
}

struct RopeBackward final : torch::autograd::Node {
  at::Tensor cos_TD2;
  at::Tensor sin_TD2;
  int64_t head_dim = 0;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    return {Rotate(grads[0], cos_TD2, sin_TD2, head_dim, /*inverse=*/true)};
  }
};

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x_TH, const at::Tensor& weight_H, double eps, const at::Tensor& weight_gradient_H) {
  NormResult result = Normalise(x_TH, {}, weight_H, eps);
  if (NeedsGraph(x_TH) || (weight_gradient_H.defined() && at::GradMode::is_enabled())) {
    Record(result.out.normed_TH, NormNode(result, weight_H, weight_gradient_H, /*has_sum=*/false), x_TH);
  }
  return result.out.normed_TH;
}

NormedSum AddRmsNorm(const at::Tensor& x_TH, const at::Tensor& y_TH, const at::Tensor& weight_H, double eps,
                     const at::Tensor& weight_gradient_H) {
  SBORA_CHECK(x_TH.sizes() == y_TH.sizes() && x_TH.scalar_type() == y_TH.scalar_type(), "AddRmsNorm: {} and {} rows",
              x_TH.size(0), y_TH.size(0));
  NormResult result = Normalise(x_TH, y_TH, weight_H, eps);
  if (NeedsGraph(x_TH, y_TH) || (weight_gradient_H.defined() && at::GradMode::is_enabled())) {
    const auto node = NormNode(result, weight_H, weight_gradient_H, /*has_sum=*/true);
    Record(result.out.sum_TH, node, x_TH, y_TH);
    torch::autograd::create_gradient_edge(result.out.normed_TH, node);
  }
  return result.out;
}

at::Tensor SwiGlu(const at::Tensor& gate_TF, const at::Tensor& up_TF) {
  SBORA_CHECK(gate_TF.sizes() == up_TF.sizes() && gate_TF.scalar_type() == up_TF.scalar_type(), "SwiGlu: {} and {} columns",
              gate_TF.size(1), up_TF.size(1));
  const at::Tensor gate = Rows(gate_TF);
  const at::Tensor up = Rows(up_TF);
  at::Tensor y_TF = at::empty(gate_TF.sizes(), gate_TF.options());
  const kernels::SwiGluArguments arguments{.rows = gate.size(0), .columns = gate.size(1),
                                           .dtype = KernelDType(gate.scalar_type()),
                                           .gate_TF = gate.const_data_ptr(), .gate_stride = gate.stride(0),
                                           .up_TF = up.const_data_ptr(), .up_stride = up.stride(0),
                                           .y_TF = y_TF.mutable_data_ptr(), .y_stride = y_TF.stride(0)};
  RunKernel(PlaceOf(gate_TF), kernels::SwiGlu, arguments, arguments.rows, arguments.columns);
  if (NeedsGraph(gate_TF, up_TF)) {
    auto node = std::make_shared<SwiGluBackward>();
    node->gate_TF = gate;
    node->up_TF = up;
    Record(y_TF, std::move(node), gate_TF, up_TF);
  }
  return y_TF;
}

at::Tensor Rope(const at::Tensor& x_TD, const at::Tensor& cos_TD2, const at::Tensor& sin_TD2, int64_t head_dim) {
  at::Tensor y_TD = Rotate(x_TD, cos_TD2, sin_TD2, head_dim, /*inverse=*/false);
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
