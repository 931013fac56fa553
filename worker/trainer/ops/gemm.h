/// The frozen layers' products. On the CPU in float32 they go through oneDNN, whose AVX-512 code is 10 to 40 % faster
/// than LibTorch's default there on processors for which MKL keeps to AVX2; elsewhere they are at::mm.
#pragma once

#include <ATen/core/Tensor.h>

namespace sbora::trainer::ops {

/// x w^T: [T, I] x [O, I] -> [T, O]. No graph. Either operand may be a transposed view.
at::Tensor ProductTransposed(const at::Tensor& x_TI, const at::Tensor& w_OI);

}  // namespace sbora::trainer::ops
