/// The frozen weight of a linear layer, W0 [O, I]: a tensor, or NF4 codes (kernels/nf4/nf4.h) that are de-quantised for
/// each use, with the rows and columns that a merge has put aside.
///
///     LinearWeight weight = layer.linear[k];
///     at::Tensor y = ProductTransposed(x_TI, weight.Dense());
///
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

  /// [O, I]. A dense weight's own tensor; else a view of the scratch that holds until Dense() of the next weight: use it
  /// up first, and keep it in no graph.
  at::Tensor Dense() const;
  /// [O, I], for keeps: a dense weight's own tensor, or a de-quantised copy.
  at::Tensor Materialize() const;
  /// Bytes kept, without the scratch.
  int64_t Bytes() const;

 private:
  at::Tensor dense_OI_;
  std::shared_ptr<const Nf4Tensors> nf4_;  // shared with the copies in graphs
  at::ScalarType dtype_ = at::kFloat;
  std::shared_ptr<DequantizeScratch> scratch_;  // shared with the model's other weights
};

}  // namespace sbora::trainer::ops
