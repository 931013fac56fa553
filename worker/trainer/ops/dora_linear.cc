#include "worker/trainer/ops/dora_linear.h"

#include <ATen/ATen.h>

#include <utility>

#include "common/check.h"
#include "worker/trainer/ops/adapter_node.h"
#include "worker/trainer/ops/gemm.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

struct DoraBackward final : AdapterBackward {
  at::Tensor x_TI;
  at::Tensor z_TR;
  at::Tensor u_TO;
  at::Tensor norm_O;   // f32
  at::Tensor ratio_O;  // m / n, f32: near 1, where bfloat16 has steps of 1/128

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    SBORA_CHECK(x_TI.defined(), "backward through {} a second time", module->name);
    const double scale = module->scale;
    const at::Tensor g_TO = grads[0].contiguous();
    at::Tensor magnitude_gradient_O = module->Magnitude().gradient;  // shares storage
    magnitude_gradient_O.addcdiv_((g_TO.to(at::kFloat) * u_TO).sum(0), norm_O);

    const at::Tensor scaled_TO = (g_TO * ratio_O).to(g_TO.scalar_type());
    const at::Tensor scaled_TR = at::mm(scaled_TO, module->B().value.to(g_TO.scalar_type()));
    const at::Tensor mask_TI = MaskOf(x_TI, *module, dropout);
    Accumulate(module->B().gradient, scaled_TO, z_TR, scale);
    Accumulate(module->A().gradient, scaled_TR, Masked(x_TI, mask_TI), scale);
    adapter->NotifyGradientReady(*module);
    if (!task_should_compute_output(0)) return {at::Tensor()};

    const at::Tensor a_RI = module->A().value.to(g_TO.scalar_type());
    const at::Tensor w_IO = w_OI.Dense().t();
    at::Tensor masked_TI = ProductTransposed(mask_TI.defined() ? scaled_TO - g_TO : scaled_TO, w_IO);
    masked_TI.addmm_(scaled_TR, a_RI, 1, scale);
    if (!mask_TI.defined()) return {masked_TI};
    return {ProductTransposed(g_TO, w_IO).addcmul_(masked_TI, mask_TI)};
  }
  void release_variables() override {
    x_TI.reset();
    z_TR.reset();
    u_TO.reset();
  }
};

}  // namespace

at::Tensor DoraLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, const AdapterSet& adapter,
                      const AdapterModule& module, const DropoutPlan& dropout, bool train) {
  const at::Tensor plain_TI = x_TI.detach().contiguous();
  const at::Tensor dense_OI = w_OI.Dense();  // no other weight is asked for before it is used up
  const at::Tensor norm_O = adapter.RowNorms(module, dense_OI);
  at::Tensor y_TO;
  at::Tensor z_TR;
  at::Tensor u_TO;
  at::Tensor ratio_O;
  {
    at::NoGradGuard no_grad;
    const at::ScalarType dtype = plain_TI.scalar_type();
    ratio_O = module.Magnitude().value / norm_O;
    const at::Tensor input_TI = Masked(plain_TI, MaskOf(plain_TI, module, dropout));
    z_TR = ProductTransposed(input_TI, module.A().value.to(dtype));
    u_TO = ProductTransposed(input_TI, dense_OI).addmm_(z_TR, module.B().value.to(dtype).t(), 1, module.scale);
    y_TO = (u_TO * ratio_O).to(dtype);
    // x W0^T less the masked input's share of it is one product: (x - drop(x)) W0^T.
    if (dropout.rows != nullptr) y_TO.add_(ProductTransposed(plain_TI - input_TI, dense_OI));
  }
  if (!train || !at::GradMode::is_enabled()) {
    SBORA_CHECK(!NeedsGraph(x_TI), "{}: a graph without train", module.name);
    return y_TO;
  }
  auto node = MakeAdapterNode<DoraBackward>(w_OI, adapter, module, dropout);
  node->x_TI = plain_TI;
  node->z_TR = z_TR;
  node->u_TO = u_TO;
  node->norm_O = norm_O;
  node->ratio_O = ratio_O;
  Record(y_TO, std::move(node), x_TI);
  return y_TO;
}

}  // namespace sbora::trainer::ops
