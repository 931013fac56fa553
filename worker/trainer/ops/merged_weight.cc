#include "worker/trainer/ops/merged_weight.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <utility>

#include "common/check.h"
#include "kernels/sample_mul/sample_mul.h"
#include "worker/trainer/ops/kernel_call.h"

namespace sbora::trainer::ops {
namespace {

constexpr int64_t kGrainRows = 64;

/// w[:, idx] = saved + scale * factor.
void WriteColumns(const at::Tensor& w_OI, const at::Tensor& index_R, const at::Tensor& saved_OR, const at::Tensor& factor_OR,
                  double scale) {
  const KernelPlace place = PlaceOf(w_OI);
  const kernels::SampleMulShape shape{.rows = w_OI.size(0), .wide_columns = w_OI.size(1), .wide_stride = w_OI.stride(0),
                                      .indices = index_R.size(0), .narrow_stride = saved_OR.stride(0),
                                      .dtype = KernelDType(w_OI.scalar_type())};
  auto* const wide = w_OI.mutable_data_ptr<float>();
  const auto* const narrow = saved_OR.const_data_ptr<float>();
  const auto* const factor = factor_OR.const_data_ptr<float>();
  const auto* const index = index_R.const_data_ptr<int32_t>();
  const auto run = [&](int64_t begin, int64_t end) {
    kernels::SampleMulShape part = shape;
    part.rows = end - begin;
    const Status status =
        kernels::WriteColumns(place.device, part, wide + begin * shape.wide_stride, index, narrow + begin * shape.narrow_stride,
                              factor + begin * shape.narrow_stride, static_cast<float>(scale), place.stream);
    TORCH_CHECK(status.ok(), "merging columns: ", status.ToString());
  };
  if (place.device == kernels::Device::kCpu) {
    at::parallel_for(0, shape.rows, kGrainRows, run);
  } else {
    run(0, shape.rows);
  }
}

}  // namespace

MergedWeight::MergedWeight(at::Tensor w_OI, const AdapterSet& adapter, const AdapterModule& module)
    : w_OI_(std::move(w_OI)),
      adapter_(&adapter),
      module_(&module),
      columns_(adapter.method() == core::AdapterMethod::kSboraFa),
      index_R_(module.index_R.to(at::kLong)) {
  SBORA_CHECK(core::UsesIndices(adapter.method()) && adapter.dropout() == 0, "{}: {} with dropout {} has no merged form",
              module.name, core::AdapterMethodName(adapter.method()), adapter.dropout());
  SBORA_CHECK(w_OI_.is_contiguous() && w_OI_.scalar_type() == at::kFloat, "{}: a weight in {} cannot hold an adapter",
              module.name, c10::toString(w_OI_.scalar_type()));
  const at::NoGradGuard no_grad;
  saved_ = w_OI_.index_select(dim(), index_R_);
}

const at::Tensor& MergedWeight::Sum() {
  SBORA_CHECK(module_ != nullptr, "a merged weight after its end");
  if (const int64_t version = adapter_->parameters()._version(); version != version_) {
    Write();
    version_ = version;
  }
  return w_OI_;
}

void MergedWeight::Write() {
  const at::NoGradGuard no_grad;
  if (columns_) {
    WriteColumns(w_OI_, module_->index_R, saved_, module_->B().value, module_->scale);
  } else {
    w_OI_.index_copy_(0, index_R_, at::add(saved_, module_->A().value, module_->scale));
  }
}

at::Tensor MergedWeight::Base() const {
  const at::NoGradGuard no_grad;
  return w_OI_.index_copy(dim(), index_R_, saved_);
}

void MergedWeight::End() {
  const at::NoGradGuard no_grad;
  w_OI_.index_copy_(dim(), index_R_, saved_);
  module_ = nullptr;
}

}  // namespace sbora::trainer::ops
