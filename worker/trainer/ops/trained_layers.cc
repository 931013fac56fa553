#include "worker/trainer/ops/trained_layers.h"

#include <ATen/ATen.h>

#include <utility>

#include "common/check.h"
#include "worker/trainer/ops/gemm.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

void Announce(const WeightGradient& gradient) {
  if (gradient.added != nullptr && *gradient.added) (*gradient.added)();
}

struct TrainedLinearBackward final : torch::autograd::Node {
  at::Tensor x_TI;
  at::Tensor w_OI;
  WeightGradient gradient;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    SBORA_CHECK(x_TI.defined(), "second backward through TrainedLinear");
    const at::Tensor g_TO = grads[0].contiguous();
    gradient.sum.addmm_(g_TO.t(), x_TI);
    Announce(gradient);
    if (!task_should_compute_output(0)) return {at::Tensor()};
    return {ProductTransposed(g_TO, w_OI.t())};
  }
  void release_variables() override { x_TI.reset(); }
};

struct TrainedEmbeddingBackward final : torch::autograd::Node {
  at::Tensor ids_T;
  WeightGradient gradient;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {};
    gradient.sum.index_add_(0, ids_T, grads[0]);
    Announce(gradient);
    return {};
  }
};

}  // namespace

at::Tensor TrainedLinear(const at::Tensor& x_TI, const at::Tensor& w_OI, const WeightGradient& gradient) {
  const at::Tensor plain_TI = x_TI.detach().contiguous();
  at::Tensor y_TO = ProductTransposed(plain_TI, w_OI);
  if (!at::GradMode::is_enabled()) return y_TO;
  auto node = std::make_shared<TrainedLinearBackward>();
  node->x_TI = plain_TI;
  node->w_OI = w_OI;
  node->gradient = gradient;
  Record(y_TO, std::move(node), x_TI);
  return y_TO;
}

at::Tensor TrainedEmbedding(const at::Tensor& ids_T, const at::Tensor& w_VH, const WeightGradient& gradient) {
  at::Tensor rows_TH;
  {
    at::NoGradGuard no_grad;
    rows_TH = at::embedding(w_VH, ids_T);
  }
  if (!at::GradMode::is_enabled()) return rows_TH;
  auto node = std::make_shared<TrainedEmbeddingBackward>();
  node->ids_T = ids_T;
  node->gradient = gradient;
  Record(rows_TH, std::move(node));
  return rows_TH;
}

}  // namespace sbora::trainer::ops
