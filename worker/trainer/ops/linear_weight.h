/// The frozen weight of a linear layer, W0 [O, I]: a tensor, or NF4 codes (kernels/nf4/nf4.h) that are de-quantised for
/// each use, with the rows and columns that a merge has put aside.
///
///     LinearWeight weight = layer.linear[k];
///     at::Tensor y = ProductTransposed(x_TI, weight.Dense());
///
/// A dense weight can also be lent to a merged adapter (merged_weight.h): its storage then holds W0 + s F, which Merged
/// gives to that adapter's module alone, and whoever asks for the weight gets W0 all the same.
/// De-quantised values live in one scratch buffer that all weights of a model share, as large as its largest weight. No
/// graph keeps them: backward passes hold the LinearWeight and de-quantise again.
/// Copies are cheap and share everything. Threading: one thread at a time for all weights of one scratch; de-quantising
/// uses at::get_num_threads() threads. Errors: c10::Error when memory runs out; a device without a kernel aborts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "worker/trainer/ops/merged_weight.h"

namespace sbora::trainer::ops {

/// Grows to the largest weight that asks for it.
struct DequantizeScratch {
  at::Tensor buffer;  ///< flat, of the compute dtype; undefined before the first use
};

/// Tensors of one device. With double quantisation scale_codes, group_scales and offset are there, else scales.
struct Nf4Tensors {
  int64_t out_features = 0;  ///< O
  int64_t in_features = 0;   ///< I
  at::Tensor codes;          ///< u8, flat
  at::Tensor scales;         ///< f32, one per block
  at::Tensor scale_codes;    ///< u8, one per block
  at::Tensor group_scales;   ///< f32, one per 256 blocks
  float offset = 0;
  // Of models with adapters merged in; undefined without (core/nf4_model.h).
  std::vector<int32_t> row_index = {};  ///< r rows with codes of their own
  at::Tensor row_codes = {};            ///< u8 [r, ceil(I / 2)], each row a sequence of its own
  at::Tensor row_scales = {};           ///< f32 [r, ceil(I / 64)]
  at::Tensor column_index = {};         ///< i64 [c]
  at::Tensor columns = {};              ///< f32 [O, c], in the place of what the codes say
};

class LinearWeight {
 public:
  LinearWeight() = default;
  /// Dense; implicit, because a tensor is one.
  LinearWeight(at::Tensor w_OI) : dense_OI_(std::move(w_OI)) {}
  /// `dtype`: of Dense(). `scratch` is shared with the model's other weights.
  LinearWeight(Nf4Tensors nf4, at::ScalarType dtype, std::shared_ptr<DequantizeScratch> scratch);

  bool quantized() const { return nf4_ != nullptr; }

  /// Until EndMerged, for this weight and for copies made from now on. REQUIRED: as MergedWeight; dense, and lent to nobody.
  void BeginMerged(const AdapterSet& adapter, const AdapterModule& module);
  /// W0's bits are back in the weight's own tensor. No-op when nothing was lent.
  void EndMerged();
  /// Whether this module's adapter is merged into the weight.
  bool Merges(const AdapterModule& module) const { return merged_ != nullptr && merged_->Holds(module); }
  /// [O, I] W0 + s F, the weight's own tensor. REQUIRED: Merges.
  const at::Tensor& Merged() const { return merged_->Sum(); }

  /// [O, I] W0. A dense weight's own tensor, or a copy while it is lent; else a view of the scratch that holds until
  /// Dense() of the next weight: use it up first, and keep it in no graph.
  at::Tensor Dense() const;
  /// [O, I] W0, for keeps: a dense weight's own tensor, or a copy of one that is lent or quantised.
  at::Tensor Materialize() const;
  /// Bytes kept, without the scratch.
  int64_t Bytes() const;

 private:
  at::Tensor dense_OI_;
  std::shared_ptr<MergedWeight> merged_;  // shared with the copies in graphs
  std::shared_ptr<const Nf4Tensors> nf4_;  // shared with the copies in graphs
  at::ScalarType dtype_ = at::kFloat;
  std::shared_ptr<DequantizeScratch> scratch_;  // shared with the model's other weights
};

}  // namespace sbora::trainer::ops
