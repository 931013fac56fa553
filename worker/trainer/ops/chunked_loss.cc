#include "worker/trainer/ops/chunked_loss.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "common/check.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "worker/trainer/ops/gemm.h"
#include "worker/trainer/ops/kernel_call.h"
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

/// The losses of a chunk's rows; with `gradient` its logits become their gradient.
void LossOfChunk(const at::Tensor& logits_CV, const at::Tensor& targets_C, const at::Tensor& loss_C, bool gradient) {
  const kernels::CrossEntropyArguments arguments{.rows = logits_CV.size(0), .columns = logits_CV.size(1),
                                                 .stride = logits_CV.stride(0), .dtype = KernelDType(logits_CV.scalar_type()),
                                                 .gradient = gradient, .logits_SV = logits_CV.mutable_data_ptr(),
                                                 .target_S = targets_C.const_data_ptr<int64_t>(),
                                                 .loss_S = loss_C.mutable_data_ptr<float>()};
  RunKernel(PlaceOf(logits_CV), kernels::CrossEntropy, arguments, arguments.rows, arguments.columns);
}

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
    const at::Tensor loss_S = at::empty({hidden_SH.size(0)}, hidden_SH.options().dtype(at::kFloat));
    if (graph) grad_SH = at::empty_like(hidden_SH);
    if (graph && gradient_VH.defined()) head_VH = at::zeros_like(gradient_VH);
    for (int64_t begin = 0; begin < hidden_SH.size(0); begin += chunk_rows) {
      const int64_t end = std::min(begin + chunk_rows, hidden_SH.size(0));
      const at::Tensor hidden_CH = hidden_SH.slice(0, begin, end).detach();
      at::Tensor logits_CV = ProductTransposed(hidden_CH, w_VH);
      if (head_VH.defined()) logits_CV = logits_CV.to(at::kFloat);  // its gradient is a float32 sum of what is not rounded
      LossOfChunk(logits_CV, targets_S.slice(0, begin, end), loss_S.slice(0, begin, end), graph);
      if (!graph) continue;
      grad_SH.slice(0, begin, end).copy_(ProductTransposed(logits_CV.to(hidden_SH.scalar_type()), w_VH.t()));
      if (head_VH.defined()) head_VH.addmm_(logits_CV.t(), hidden_CH.to(at::kFloat));
    }
    sum = loss_S.sum(at::kDouble).to(at::kFloat);
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
