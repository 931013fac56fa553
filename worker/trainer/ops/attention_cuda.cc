// LibTorch's two CUDA attentions for samples of different lengths. Both calls stand in every build's dispatcher, so this
// file needs no CUDA headers.
#include <ATen/ATen.h>

#include <optional>

#include "common/check.h"
#include "worker/trainer/ops/attention.h"

namespace sbora::trainer::ops::internal {
namespace {

constexpr int64_t kFlashMaxHeadDim = 256;
constexpr int64_t kFlashHeadDimStep = 8;
constexpr int64_t kCausalFromTopLeft = 1;  // sdp::CustomMaskType
constexpr int64_t kOneSplit = 1;           // of the keys: more would add with atomics

bool UsesFlash(const AttentionInputs& in) {
  return in.q.scalar_type() != at::kFloat && in.head_dim <= kFlashMaxHeadDim && in.head_dim % kFlashHeadDimStep == 0;
}

/// [T, heads, D], without copying.
at::Tensor Heads(const at::Tensor& packed, int64_t head_dim) { return packed.view({packed.size(0), -1, head_dim}); }

/// [1, T, heads * group, D].
at::Tensor RepeatedHeads(const at::Tensor& packed, int64_t head_dim, int64_t group) {
  const at::Tensor heads = Heads(packed, head_dim).unsqueeze(2);
  return heads.expand({heads.size(0), heads.size(1), group, head_dim}).reshape({1, heads.size(0), -1, head_dim});
}

/// The gradient of RepeatedHeads: [1, T, heads * group, D] to [T, heads * D].
at::Tensor Summed(const at::Tensor& grad_1THD, int64_t head_dim, int64_t group) {
  const int64_t tokens = grad_1THD.size(1);
  return grad_1THD.reshape({tokens, -1, group, head_dim}).sum(2).reshape({tokens, -1});
}

AttentionForward Flash(const AttentionInputs& in, bool keep) {
  const SampleBorders& b = in.borders;
  auto [out, logsumexp, rng_state, unused, mask] = at::_flash_attention_forward(
      Heads(in.q, in.head_dim), Heads(in.k, in.head_dim), Heads(in.v, in.head_dim), b.device_rows, b.device_rows, b.longest,
      b.longest, /*dropout_p=*/0, /*is_causal=*/true, /*return_debug_mask=*/false);
  AttentionForward forward{.out = out.reshape(in.q.sizes())};
  if (keep) forward.saved = {logsumexp, rng_state, unused};
  return forward;
}

AttentionGradients FlashBackward(const AttentionInputs& in, const AttentionForward& forward, const at::Tensor& grad) {
  const SampleBorders& b = in.borders;
  const auto [dq, dk, dv] = at::_flash_attention_backward(
      Heads(grad, in.head_dim), Heads(in.q, in.head_dim), Heads(in.k, in.head_dim), Heads(in.v, in.head_dim),
      Heads(forward.out, in.head_dim), forward.saved[0], b.device_rows, b.device_rows, b.longest, b.longest,
      /*dropout_p=*/0, /*is_causal=*/true, forward.saved[1], forward.saved[2]);
  return {.q = dq.reshape(in.q.sizes()), .k = dk.reshape(in.k.sizes()), .v = dv.reshape(in.v.sizes())};
}

AttentionForward Efficient(const AttentionInputs& in, bool keep) {
  const SampleBorders& b = in.borders;
  auto result = at::_efficient_attention_forward(
      Heads(in.q, in.head_dim).unsqueeze(0), RepeatedHeads(in.k, in.head_dim, in.group()),
      RepeatedHeads(in.v, in.head_dim, in.group()), /*bias=*/std::nullopt, b.device_rows, b.device_rows, b.longest,
      b.longest, /*dropout_p=*/0, kCausalFromTopLeft, /*compute_log_sumexp=*/keep);
  AttentionForward forward{.out = std::get<0>(result).reshape(in.q.sizes())};
  if (keep) forward.saved = {std::get<1>(result), std::get<2>(result), std::get<3>(result)};
  return forward;
}

AttentionGradients EfficientBackward(const AttentionInputs& in, const AttentionForward& forward, const at::Tensor& grad) {
  const SampleBorders& b = in.borders;
  const auto [dq, dk, dv, dbias] = at::_efficient_attention_backward(
      Heads(grad, in.head_dim).unsqueeze(0), Heads(in.q, in.head_dim).unsqueeze(0),
      RepeatedHeads(in.k, in.head_dim, in.group()), RepeatedHeads(in.v, in.head_dim, in.group()), /*bias=*/std::nullopt,
      Heads(forward.out, in.head_dim).unsqueeze(0), b.device_rows, b.device_rows, b.longest, b.longest, forward.saved[0],
      /*dropout_p=*/0, forward.saved[1], forward.saved[2], kCausalFromTopLeft, /*bias_requires_grad=*/false,
      /*scale=*/std::nullopt, kOneSplit);
  return {.q = dq.reshape(in.q.sizes()),
          .k = Summed(dk, in.head_dim, in.group()),
          .v = Summed(dv, in.head_dim, in.group())};
}

}  // namespace

AttentionForward AttendCuda(const AttentionInputs& in, bool keep) {
  SBORA_CHECK(in.borders.device_rows.defined(), "attention on {}: borders were made for the CPU", in.q.device().str());
  return UsesFlash(in) ? Flash(in, keep) : Efficient(in, keep);
}

AttentionGradients AttendCudaBackward(const AttentionInputs& in, const AttentionForward& forward, const at::Tensor& grad) {
  return UsesFlash(in) ? FlashBackward(in, forward, grad) : EfficientBackward(in, forward, grad);
}

}  // namespace sbora::trainer::ops::internal
