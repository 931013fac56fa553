/// Cross-entropy of a head, in chunks: logits of all rows never exist together.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sbora::trainer::ops {

inline constexpr int64_t kLossChunkRows = 128;

/// sum_s -log softmax(hidden[s] W^T)[target[s]] as a float32 scalar, arithmetic in float32.
/// hidden_SH [S, H], w_VH [V, H] (same dtype), targets_S int64. With grad mode on and hidden requiring a gradient, the
/// gradient of hidden is computed chunk by chunk during the forward pass (so the head's product is done once) and kept
/// (S x H). Memory: chunk_rows x V floats. S = 0 gives 0.
/// Trained head: with gradient_VH ([V, H] float32) the gradient of W is computed beside it and kept (V x H floats, until
/// the backward pass, whose first node this is), then added to gradient_VH.
at::Tensor ChunkedCrossEntropy(const at::Tensor& hidden_SH, const at::Tensor& w_VH, const at::Tensor& targets_S,
                               int64_t chunk_rows = kLossChunkRows, const at::Tensor& gradient_VH = {});

}  // namespace sbora::trainer::ops
