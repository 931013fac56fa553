/// The layers that full fine-tuning trains, beside RmsNorm (frozen_layers.h) and the head (chunked_loss.h).
///
/// Gradients are ADDED to the given tensors during the backward pass; autograd sees the input gradient only, and no
/// weight is an autograd leaf. Errors: c10::Error for shapes.
///
/// Legend: T tokens, I in_features, O out_features, V vocabulary, H hidden.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace sbora::trainer::ops {

/// Where a weight's gradient goes.
struct WeightGradient {
  at::Tensor sum;                               ///< float32, the weight's shape
  const std::function<void()>* added = nullptr;  ///< called after each addition, if it is not empty; outlives the graph
};

/// y = x W^T with W [O, I] float32 trained: dW = g^T x, dx = g W. Keeps x (shared with its other readers) and W.
at::Tensor TrainedLinear(const at::Tensor& x_TI, const at::Tensor& w_OI, const WeightGradient& gradient);

/// Rows `ids_T` (int64) of the table: the graph's beginning. Keeps the ids. Rows are added one after the other, in the
/// order of the ids, so that repeated ids give the same bits each time.
at::Tensor TrainedEmbedding(const at::Tensor& ids_T, const at::Tensor& w_VH, const WeightGradient& gradient);

}  // namespace sbora::trainer::ops
