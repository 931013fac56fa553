#include "worker/trainer/ops/adapter_node.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "common/check.h"
#include "kernels/factor_gradient/factor_gradient.h"

namespace sbora::trainer::ops {
namespace {

constexpr int64_t kUnit = 48;  // rows or columns that a thread takes at a time: whole tiles of the kernel, either way
constexpr int64_t kGrainProducts = 1 << 20;

/// Threads share the longer side of the gradient.
void AccumulateOnCpu(const at::Tensor& gradient, const at::Tensor& left_TM, const at::Tensor& right_TN, double scale) {
  const kernels::FactorGradientShape whole{.tokens = left_TM.size(0), .rows = left_TM.size(1), .columns = right_TN.size(1),
                                           .left_stride = left_TM.size(1), .right_stride = right_TN.size(1),
                                           .out_stride = right_TN.size(1)};
  SBORA_CHECK(gradient.is_contiguous() && gradient.size(0) == whole.rows && gradient.size(1) == whole.columns,
              "a gradient of {} elements for {} x {}", gradient.numel(), whole.rows, whole.columns);
  const bool by_rows = whole.rows >= whole.columns;
  const int64_t side = by_rows ? whole.rows : whole.columns;
  const int64_t products_per_unit = std::max<int64_t>(1, kUnit * whole.tokens * std::min(whole.rows, whole.columns));
  const auto* const left = left_TM.const_data_ptr<float>();
  const auto* const right = right_TN.const_data_ptr<float>();
  auto* const out = gradient.mutable_data_ptr<float>();
  at::parallel_for(0, (side + kUnit - 1) / kUnit, (kGrainProducts + products_per_unit - 1) / products_per_unit,
                   [&](int64_t first, int64_t last) {
                     const int64_t begin = first * kUnit;
                     const int64_t count = std::min(side, last * kUnit) - begin;
                     kernels::FactorGradientShape part = whole;
                     (by_rows ? part.rows : part.columns) = count;
                     const Status status = kernels::FactorGradient(
                         kernels::Device::kCpu, part, left + (by_rows ? begin : 0), right + (by_rows ? 0 : begin),
                         static_cast<float>(scale), out + (by_rows ? begin * whole.out_stride : begin));
                     TORCH_CHECK(status.ok(), status.ToString());
                   });
}

}  // namespace

void Accumulate(const at::Tensor& gradient, const at::Tensor& left, const at::Tensor& right, double scale) {
  const at::NoGradGuard no_grad;
  const at::Tensor left_TM = left.to(at::kFloat);
  const at::Tensor right_TN = right.to(at::kFloat);
  at::Tensor target = gradient;  // shares storage
  if (target.is_cpu() && kernels::HasFactorGradient(kernels::Device::kCpu)) {
    AccumulateOnCpu(target, left_TM.contiguous(), right_TN.contiguous(), scale);
  } else {
    target.addmm_(left_TM.t(), right_TN, 1, scale);
  }
}

}  // namespace sbora::trainer::ops
