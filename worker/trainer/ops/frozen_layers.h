/// The parts of a LLaMA block that are neither linear layers nor attention: each keeps its inputs
/// only and recomputes the rest in its backward pass. The arithmetic is that of kernels/rms_norm, swiglu and rope; all
/// tensors of one call have one dtype, but for those that are said to be float32.
///
/// Legend: T tokens, H hidden, F intermediate, D head_dim.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sbora::trainer::ops {

/// weight * x / sqrt(mean(x^2) + eps), the mean in float32. Keeps x and one float per row. The backward pass adds the
/// weight's gradient to weight_gradient_H ([H] float32); undefined: the weight is frozen.
at::Tensor RmsNorm(const at::Tensor& x_TH, const at::Tensor& weight_H, double eps,
                   const at::Tensor& weight_gradient_H = {});

/// x + y and its RmsNorm: the residual addition before a norm, in the same passes forward and backward.
struct NormedSum {
  at::Tensor sum_TH;
  at::Tensor normed_TH;
};
NormedSum AddRmsNorm(const at::Tensor& x_TH, const at::Tensor& y_TH, const at::Tensor& weight_H, double eps,
                     const at::Tensor& weight_gradient_H = {});

/// silu(gate) * up. Keeps gate and up.
at::Tensor SwiGlu(const at::Tensor& gate_TF, const at::Tensor& up_TF);

/// Rotates pairs (i, i + D/2) of each head, HF's convention. x is [T, heads * D]; cos_TD2 and sin_TD2 are [T, D/2] f32.
/// Keeps nothing of x.
at::Tensor Rope(const at::Tensor& x_TD, const at::Tensor& cos_TD2, const at::Tensor& sin_TD2, int64_t head_dim);

}  // namespace sbora::trainer::ops
