#include "worker/trainer/ops/chunked_loss.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "common/check.h"
#include "worker/trainer/ops/gemm.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

struct ChunkedCrossEntropyBackward final : torch::autograd::Node {
  at::Tensor grad_SH;      // of the unscaled sum
  at::Tensor head_VH;      // the head's, of the unscaled sum; undefined when frozen
  at::Tensor gradient_VH;  // where that is added

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    SBORA_CHECK(grad_SH.defined(), "second backward through ChunkedCrossEntropy");
    if (head_VH.defined()) gradient_VH.addcmul_(head_VH, grads[0]);
    head_VH.reset();
    return {grad_SH * grads[0].to(grad_SH.scalar_type())};
  }
  void release_variables() override {
    grad_SH.reset();
    head_VH.reset();
  }
};

}  // namespace

at::Tensor ChunkedCrossEntropy(const at::Tensor& hidden_SH, const at::Tensor& w_VH, const at::Tensor& targets_S,
                               int64_t chunk_rows, const at::Tensor& gradient_VH) {
  SBORA_CHECK(chunk_rows > 0 && hidden_SH.size(0) == targets_S.size(0), "loss: {} rows, {} targets, chunk {}",
              hidden_SH.size(0), targets_S.size(0), chunk_rows);
  const bool graph = NeedsGraph(hidden_SH);
  at::Tensor sum;
  at::Tensor grad_SH;
  at::Tensor head_VH;
  {
    at::NoGradGuard no_grad;
    sum = at::zeros({}, hidden_SH.options().dtype(at::kFloat));
    if (graph) grad_SH = at::empty_like(hidden_SH);
    if (graph && gradient_VH.defined()) head_VH = at::zeros_like(gradient_VH);
    for (int64_t begin = 0; begin < hidden_SH.size(0); begin += chunk_rows) {
      const int64_t end = std::min(begin + chunk_rows, hidden_SH.size(0));
      const at::Tensor target_C1 = targets_S.slice(0, begin, end).unsqueeze(1);
      const at::Tensor logits_CV = ProductTransposed(hidden_SH.slice(0, begin, end).detach(), w_VH).to(at::kFloat);
      at::Tensor log_p_CV = at::log_softmax(logits_CV, -1);
      sum.sub_(log_p_CV.gather(1, target_C1).sum());
      if (!graph) continue;
      at::Tensor p_CV = log_p_CV.exp_();
      p_CV.scatter_add_(1, target_C1, at::full({end - begin, 1}, -1.0, p_CV.options()));
      at::Tensor grad_CH = grad_SH.slice(0, begin, end);
      grad_CH.copy_(ProductTransposed(p_CV.to(hidden_SH.scalar_type()), w_VH.t()));
      if (head_VH.defined()) head_VH.addmm_(p_CV.t(), hidden_SH.slice(0, begin, end).detach().to(at::kFloat));
    }
  }
  if (graph) {
    auto node = std::make_shared<ChunkedCrossEntropyBackward>();
    node->grad_SH = grad_SH;
    node->head_VH = head_VH;
    node->gradient_VH = gradient_VH;
    Record(sum, std::move(node), hidden_SH);
  }
  return sum;
}

}  // namespace sbora::trainer::ops
