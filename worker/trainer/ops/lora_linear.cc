#include "worker/trainer/ops/lora_linear.h"

#include <ATen/ATen.h>

#include <utility>

#include "common/check.h"
#include "worker/trainer/ops/adapter_node.h"
#include "worker/trainer/ops/gemm.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

struct LoraBackward final : AdapterBackward {
  at::Tensor x_TI;  // undefined with a frozen A
  at::Tensor z_TR;  // drop(x) A^T

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    SBORA_CHECK(z_TR.defined(), "backward through {} a second time", module->name);
    const double scale = module->scale;
    const at::Tensor g_TO = grads[0].contiguous();
    const at::Tensor g_TR = at::mm(g_TO, module->B().value.to(g_TO.scalar_type()));
    Accumulate(module->B().gradient, g_TO, z_TR, scale);
    at::Tensor mask_TI;
    if (x_TI.defined()) {
      mask_TI = MaskOf(x_TI, *module, dropout);
      Accumulate(module->A().gradient, g_TR, Masked(x_TI, mask_TI), scale);
    }
    adapter->NotifyGradientReady(*module);
    if (!task_should_compute_output(0)) return {at::Tensor()};
    at::Tensor dx_TI = ProductTransposed(g_TO, w_OI.Dense().t());
    if (!mask_TI.defined()) mask_TI = MaskOf(dx_TI, *module, dropout);
    AddInputGradient(dx_TI, g_TR, module->A().value.to(g_TO.scalar_type()), mask_TI, scale);
    return {dx_TI};
  }
  void release_variables() override {
    x_TI.reset();
    z_TR.reset();
  }
};

}  // namespace

at::Tensor LoraLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, const AdapterSet& adapter,
                      const AdapterModule& module, const DropoutPlan& dropout, bool train) {
  const at::Tensor plain_TI = x_TI.detach().contiguous();
  at::Tensor y_TO;
  at::Tensor z_TR;
  {
    at::NoGradGuard no_grad;
    const at::ScalarType dtype = plain_TI.scalar_type();
    y_TO = ProductTransposed(plain_TI, w_OI.Dense());
    z_TR = ProductTransposed(Masked(plain_TI, MaskOf(plain_TI, module, dropout)), module.A().value.to(dtype));
    y_TO.addmm_(z_TR, module.B().value.to(dtype).t(), 1, module.scale);
  }
  if (!train || !at::GradMode::is_enabled()) {
    SBORA_CHECK(!NeedsGraph(x_TI), "{}: a graph without train", module.name);
    return y_TO;
  }
  auto node = MakeAdapterNode<LoraBackward>(w_OI, adapter, module, dropout);
  if (module.A().spec.trained) node->x_TI = plain_TI;
  node->z_TR = z_TR;
  Record(y_TO, std::move(node), x_TI);
  return y_TO;
}

}  // namespace sbora::trainer::ops
