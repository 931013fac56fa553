#include "worker/trainer/ops/recomputed.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <utility>

#include "common/check.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

struct RecomputedBackward final : torch::autograd::Node {
  at::Tensor x;
  std::function<at::Tensor(const at::Tensor&)> run;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    SBORA_CHECK(x.defined(), "second backward through Recomputed");
    const at::AutoGradMode with_graph(true);
    const bool wanted = task_should_compute_output(0);
    at::Tensor input = x.detach();
    input.requires_grad_(wanted);
    torch::autograd::backward({run(input)}, {grads[0]});  // within this thread: nodes run in the order of the plain graph
    return {wanted ? input.grad() : at::Tensor()};
  }
  void release_variables() override {
    x.reset();
    run = nullptr;
  }
};

}  // namespace

at::Tensor Recomputed(const at::Tensor& x, bool trains, std::function<at::Tensor(const at::Tensor&)> run) {
  if (!at::GradMode::is_enabled() || !(trains || x.requires_grad())) return run(x);
  at::Tensor y;
  {
    at::NoGradGuard no_grad;
    y = run(x.detach());
  }
  auto node = std::make_shared<RecomputedBackward>();
  node->x = x.detach();
  node->run = std::move(run);
  Record(y, std::move(node), x);
  return y;
}

}  // namespace sbora::trainer::ops
