#include "worker/trainer/ops/linear_weight.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "kernels/nf4/nf4.h"
#include "worker/trainer/ops/kernel_call.h"

namespace sbora::trainer::ops {
namespace {

constexpr int64_t kGrainElements = 1 << 16;

/// One f32 per block: kept, or made from its 8-bit form (a sixty-fourth of the weight's size, for this use only).
at::Tensor Scales(const Nf4Tensors& nf4) {
  if (nf4.scales.defined()) return nf4.scales;
  const KernelPlace place = PlaceOf(nf4.scale_codes);
  at::Tensor scales = at::empty({nf4.scale_codes.size(0)}, nf4.group_scales.options());
  const at::Tensor offset_1 = at::full({1}, nf4.offset, nf4.group_scales.options());  // the kernel reads it on its device
  const Status status = kernels::DequantizeScales(
      place.device, scales.size(0), nf4.scale_codes.const_data_ptr<uint8_t>(), nf4.group_scales.const_data_ptr<float>(),
      offset_1.const_data_ptr<float>(), scales.mutable_data_ptr<float>(), place.stream);
  TORCH_CHECK(status.ok(), "de-quantising scales: ", status.ToString());
  return scales;
}

/// Rows are shared among threads on the CPU; one launch on a device.
void Dequantize(const Nf4Tensors& nf4, const at::Tensor& out_OI) {
  SBORA_CHECK(nf4.codes.device() == out_OI.device(), "codes on {}, values on {}", nf4.codes.device().str(),
              out_OI.device().str());
  SBORA_CHECK(out_OI.dim() == 2 && out_OI.size(0) == nf4.out_features && out_OI.size(1) == nf4.in_features &&
                  out_OI.stride(1) == 1,
              "a weight of {} x {} does not fit the matrix", nf4.out_features, nf4.in_features);
  const KernelPlace place = PlaceOf(out_OI);
  const kernels::DType dtype = KernelDType(out_OI.scalar_type());
  const at::Tensor scales = Scales(nf4);
  const auto* codes = nf4.codes.const_data_ptr<uint8_t>();
  auto* out = static_cast<std::byte*>(out_OI.mutable_data_ptr());
  const int64_t stride = out_OI.stride(0);
  const auto run = [&](int64_t begin, int64_t end) {
    const kernels::Nf4Matrix part{.rows = end - begin, .columns = nf4.in_features, .stride = stride,
                                  .first_element = begin * nf4.in_features, .dtype = dtype};
    const Status status =
        kernels::DequantizeNf4(place.device, part, codes, scales.const_data_ptr<float>(),
                               out + static_cast<size_t>(begin * stride) * kernels::SizeOf(dtype), place.stream);
    TORCH_CHECK(status.ok(), "de-quantising: ", status.ToString());
  };
  if (place.device == kernels::Device::kCpu) {
    at::parallel_for(0, nf4.out_features, std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, nf4.in_features)), run);
  } else {
    run(0, nf4.out_features);
  }
}

/// Over the values of the codes: first rows, then columns, which hold where they cross.
void PutAsides(const Nf4Tensors& nf4, const at::Tensor& out_OI) {
  const KernelPlace place = PlaceOf(out_OI);
  const kernels::DType dtype = KernelDType(out_OI.scalar_type());
  auto* out = static_cast<std::byte*>(out_OI.mutable_data_ptr());
  for (size_t i = 0; i < nf4.row_index.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    const kernels::Nf4Matrix part{.rows = 1, .columns = nf4.in_features, .stride = nf4.in_features, .first_element = 0,
                                  .dtype = dtype};
    const auto at = static_cast<size_t>(nf4.row_index[i] * out_OI.stride(0)) * kernels::SizeOf(dtype);
    const Status status = kernels::DequantizeNf4(
        place.device, part, nf4.row_codes.const_data_ptr<uint8_t>() + row * nf4.row_codes.size(1),
        nf4.row_scales.const_data_ptr<float>() + row * nf4.row_scales.size(1), out + at, place.stream);
    TORCH_CHECK(status.ok(), "de-quantising row ", nf4.row_index[i], ": ", status.ToString());
  }
  if (!nf4.columns.defined()) return;
  at::Tensor target_OI = out_OI;
  target_OI.index_copy_(1, nf4.column_index, nf4.columns.to(out_OI.scalar_type()));
}

}  // namespace

LinearWeight::LinearWeight(Nf4Tensors nf4, at::ScalarType dtype, std::shared_ptr<DequantizeScratch> scratch)
    : nf4_(std::make_shared<const Nf4Tensors>(std::move(nf4))), dtype_(dtype), scratch_(std::move(scratch)) {
  const int64_t elements = nf4_->out_features * nf4_->in_features;
  const int64_t blocks = kernels::Nf4Blocks(elements);
  const at::Tensor& per_block = nf4_->scales.defined() ? nf4_->scales : nf4_->scale_codes;
  SBORA_CHECK(nf4_->codes.numel() == kernels::Nf4CodeBytes(elements) && per_block.numel() == blocks,
              "{} bytes of codes and {} scales for {} x {}", nf4_->codes.numel(), per_block.numel(), nf4_->out_features,
              nf4_->in_features);
  SBORA_CHECK(nf4_->scales.defined() || nf4_->group_scales.numel() == kernels::Nf4Groups(blocks),
              "{} group scales for {} blocks", nf4_->group_scales.numel(), blocks);
  const auto rows = static_cast<int64_t>(nf4_->row_index.size());
  SBORA_CHECK(rows == 0 || (nf4_->row_codes.numel() == rows * kernels::Nf4CodeBytes(nf4_->in_features) &&
                            nf4_->row_scales.numel() == rows * kernels::Nf4Blocks(nf4_->in_features)),
              "codes or scales of {} rows", rows);
  SBORA_CHECK(!nf4_->columns.defined() || (nf4_->columns.size(0) == nf4_->out_features &&
                                           nf4_->columns.size(1) == nf4_->column_index.size(0)),
              "{} values in columns", nf4_->columns.numel());
}

void LinearWeight::BeginMerged(const AdapterSet& adapter, const AdapterModule& module) {
  SBORA_CHECK(!nf4_ && !merged_, "{}: the weight is {}", module.name, nf4_ ? "quantised" : "lent already");
  merged_ = std::make_shared<MergedWeight>(dense_OI_, adapter, module);
}

void LinearWeight::EndMerged() {
  if (!merged_) return;
  merged_->End();
  merged_.reset();
}

at::Tensor LinearWeight::Dense() const {
  if (!nf4_) return merged_ ? merged_->Base() : dense_OI_;
  const int64_t elements = nf4_->out_features * nf4_->in_features;
  at::Tensor& buffer = scratch_->buffer;
  if (!buffer.defined() || buffer.numel() < elements || buffer.scalar_type() != dtype_) {
    buffer = at::Tensor();  // the old one goes before the new one comes
    buffer = at::empty({elements}, nf4_->codes.options().dtype(dtype_));
  }
  const at::Tensor out_OI = buffer.narrow(0, 0, elements).view({nf4_->out_features, nf4_->in_features});
  Dequantize(*nf4_, out_OI);
  PutAsides(*nf4_, out_OI);
  return out_OI;
}

at::Tensor LinearWeight::Materialize() const {
  if (!nf4_) return Dense();
  at::Tensor out_OI = at::empty({nf4_->out_features, nf4_->in_features}, nf4_->codes.options().dtype(dtype_));
  Dequantize(*nf4_, out_OI);
  PutAsides(*nf4_, out_OI);
  return out_OI;
}

int64_t LinearWeight::Bytes() const {
  if (!nf4_) return static_cast<int64_t>(dense_OI_.nbytes()) + (merged_ ? merged_->Bytes() : 0);
  int64_t bytes = sizeof(float);
  for (const at::Tensor* tensor : {&nf4_->codes, &nf4_->scales, &nf4_->scale_codes, &nf4_->group_scales, &nf4_->row_codes,
                                   &nf4_->row_scales, &nf4_->column_index, &nf4_->columns}) {
    if (tensor->defined()) bytes += static_cast<int64_t>(tensor->nbytes());
  }
  return bytes;
}

}  // namespace sbora::trainer::ops
