#include "worker/trainer/ops/gemm.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>

namespace sbora::trainer::ops {
namespace {

using LinearPointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                   c10::string_view, c10::List<std::optional<at::Scalar>>,
                                   std::optional<c10::string_view>);

at::Tensor OneDnn(const at::Tensor& x_TI, const at::Tensor& w_OI) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<LinearPointwise>();
  return op.call(x_TI, w_OI, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace

at::Tensor ProductTransposed(const at::Tensor& x_TI, const at::Tensor& w_OI) {
  at::NoGradGuard no_grad;
  if (x_TI.is_cpu() && x_TI.scalar_type() == at::kFloat && x_TI.size(0) > 0 && at::hasMKLDNN()) {
    return OneDnn(x_TI.contiguous(), w_OI);
  }
  return at::mm(x_TI, w_OI.t());
}

}  // namespace sbora::trainer::ops
