#include "worker/trainer/ops/sbora_linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "common/check.h"
#include "kernels/sample_mul/sample_mul.h"
#include "worker/trainer/ops/adapter_node.h"
#include "worker/trainer/ops/gemm.h"
#include "worker/trainer/ops/kernel_call.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

kernels::SampleMulShape KernelShape(const at::Tensor& wide_TC, int64_t indices, const at::Tensor& narrow_TR) {
  return {.rows = wide_TC.size(0),
          .wide_columns = wide_TC.size(1),
          .wide_stride = wide_TC.stride(0),
          .indices = indices,
          .narrow_stride = narrow_TR.stride(0),
          .dtype = KernelDType(wide_TC.scalar_type())};
}

/// Runs `kernel(place, shape, wide, narrow)` over all rows: split among threads on the CPU, one launch on a device.
template <typename Kernel>
void OverRows(const at::Tensor& wide_TC, const at::Tensor& narrow_TR, int64_t indices, const Kernel& kernel) {
  const KernelPlace place = PlaceOf(wide_TC);
  const kernels::SampleMulShape shape = KernelShape(wide_TC, indices, narrow_TR);
  const size_t element = kernels::SizeOf(shape.dtype);
  auto* wide = static_cast<std::byte*>(const_cast<void*>(wide_TC.const_data_ptr()));
  auto* narrow = static_cast<std::byte*>(const_cast<void*>(narrow_TR.const_data_ptr()));
  const auto run = [&](int64_t begin, int64_t end) {
    kernels::SampleMulShape part = shape;
    part.rows = end - begin;
    const Status status = kernel(place, part, wide + static_cast<size_t>(begin * shape.wide_stride) * element,
                                 narrow + static_cast<size_t>(begin * shape.narrow_stride) * element);
    TORCH_CHECK(status.ok(), "sample_mul: ", status.ToString());
  };
  if (place.device == kernels::Device::kCpu) {
    at::parallel_for(0, shape.rows, 64, run);
  } else {
    run(0, shape.rows);
  }
}

at::Tensor Gather(const at::Tensor& wide_TC, const at::Tensor& index_R) {
  at::Tensor narrow_TR = at::empty({wide_TC.size(0), index_R.size(0)}, wide_TC.options());
  const int32_t* index = index_R.const_data_ptr<int32_t>();
  OverRows(wide_TC, narrow_TR, index_R.size(0),
           [&](const KernelPlace& place, const kernels::SampleMulShape& shape, void* wide, void* narrow) {
             return kernels::GatherColumns(place.device, shape, wide, index, narrow, place.stream);
           });
  return narrow_TR;
}

void ScatterAdd(const at::Tensor& wide_TC, const at::Tensor& index_R, const at::Tensor& narrow_TR, double scale) {
  const int32_t* index = index_R.const_data_ptr<int32_t>();
  OverRows(wide_TC, narrow_TR, index_R.size(0),
           [&](const KernelPlace& place, const kernels::SampleMulShape& shape, void* wide, void* narrow) {
             return kernels::ScatterAddColumns(place.device, shape, wide, index, narrow, static_cast<float>(scale),
                                               place.stream);
           });
}

/// What one product multiplies by: W0 with the adapter's own products beside it, or, merged, their sum.
at::Tensor MatrixOf(const LinearWeight& w_OI, const AdapterModule& module) {
  return w_OI.Merges(module) ? w_OI.Merged() : w_OI.Dense();
}

struct FrozenLinearBackward final : torch::autograd::Node {
  LinearWeight w_OI;
  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined() || !task_should_compute_output(0)) return {at::Tensor()};
    return {ProductTransposed(grads[0], w_OI.Dense().t())};
  }
};

struct FaBackward final : AdapterBackward {
  at::Tensor gathered_TR;  // drop(x)[:, idx]

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    SBORA_CHECK(gathered_TR.defined(), "backward through {} a second time", module->name);
    const at::Tensor g_TO = grads[0].contiguous();
    Accumulate(module->B().gradient, g_TO, gathered_TR, module->scale);
    adapter->NotifyGradientReady(*module);
    if (!task_should_compute_output(0)) return {at::Tensor()};
    at::Tensor dx_TI = ProductTransposed(g_TO, MatrixOf(w_OI, *module).t());
    if (w_OI.Merges(*module)) return {dx_TI};
    at::Tensor back_TR = at::mm(g_TO, module->B().value.to(g_TO.scalar_type()));
    if (dropout.rows != nullptr) {
      ApplyMaskToColumns(back_TR, module->index, *dropout.rows, module->dropout_id, dropout.probability);
    }
    ScatterAdd(dx_TI, module->index_R, back_TR, module->scale);
    return {dx_TI};
  }
  void release_variables() override { gathered_TR.reset(); }
};

struct FbBackward final : AdapterBackward {
  at::Tensor x_TI;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor()};
    SBORA_CHECK(x_TI.defined(), "backward through {} a second time", module->name);
    const at::Tensor g_TO = grads[0].contiguous();
    const at::Tensor g_TR = Gather(g_TO, module->index_R);
    const at::Tensor mask_TI = MaskOf(x_TI, *module, dropout);
    Accumulate(module->A().gradient, g_TR, Masked(x_TI, mask_TI), module->scale);
    adapter->NotifyGradientReady(*module);
    if (!task_should_compute_output(0)) return {at::Tensor()};
    at::Tensor dx_TI = ProductTransposed(g_TO, MatrixOf(w_OI, *module).t());
    if (w_OI.Merges(*module)) return {dx_TI};
    AddInputGradient(dx_TI, g_TR, module->A().value.to(g_TO.scalar_type()), mask_TI, module->scale);
    return {dx_TI};
  }
  void release_variables() override { x_TI.reset(); }
};

}  // namespace

at::Tensor FrozenLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, bool begin) {
  at::Tensor y_TO;
  {
    at::NoGradGuard no_grad;
    y_TO = ProductTransposed(x_TI.detach(), w_OI.Dense());
  }
  if (NeedsGraph(x_TI) || (begin && at::GradMode::is_enabled())) {
    auto node = std::make_shared<FrozenLinearBackward>();
    node->w_OI = w_OI;
    Record(y_TO, std::move(node), x_TI);
  }
  return y_TO;
}

at::Tensor SboraLinear(const at::Tensor& x_TI, const LinearWeight& w_OI, const AdapterSet& adapter,
                       const AdapterModule& module, const DropoutPlan& dropout, bool train) {
  const bool fa = adapter.method() == core::AdapterMethod::kSboraFa;
  const bool graph = train && at::GradMode::is_enabled();
  const bool merged = w_OI.Merges(module);
  at::Tensor y_TO;
  at::Tensor gathered_TR;
  at::Tensor plain_TI = x_TI.detach().contiguous();
  {
    at::NoGradGuard no_grad;
    y_TO = ProductTransposed(plain_TI, MatrixOf(w_OI, module));
    if (fa && (graph || !merged)) {
      gathered_TR = Gather(plain_TI, module.index_R);
      if (dropout.rows != nullptr) {
        ApplyMaskToColumns(gathered_TR, module.index, *dropout.rows, module.dropout_id, dropout.probability);
      }
    }
    if (merged) {
      SBORA_CHECK(dropout.rows == nullptr, "{}: dropout on a merged adapter", module.name);
    } else if (fa) {
      y_TO.addmm_(gathered_TR, module.B().value.to(plain_TI.scalar_type()).t(), 1, module.scale);
    } else {
      const at::Tensor input_TI = Masked(plain_TI, MaskOf(plain_TI, module, dropout));
      const at::Tensor product_TR = at::mm(input_TI, module.A().value.to(plain_TI.scalar_type()).t());
      ScatterAdd(y_TO, module.index_R, product_TR, module.scale);
    }
  }
  if (!graph) {
    SBORA_CHECK(!NeedsGraph(x_TI), "{}: a graph without train", module.name);
    return y_TO;
  }
  if (fa) {
    auto node = MakeAdapterNode<FaBackward>(w_OI, adapter, module, dropout);
    node->gathered_TR = gathered_TR;
    Record(y_TO, std::move(node), x_TI);
  } else {
    auto node = MakeAdapterNode<FbBackward>(w_OI, adapter, module, dropout);
    node->x_TI = plain_TI;
    Record(y_TO, std::move(node), x_TI);
  }
  return y_TO;
}

}  // namespace sbora::trainer::ops
