// One call of LibTorch's CPU flash attention for each sample, on views of the packed rows.
#include <ATen/ATen.h>

#include "worker/trainer/ops/attention.h"

namespace sbora::trainer::ops::internal {
namespace {

/// The rows [begin, end) of one sample.
struct Rows {
  int64_t begin;
  int64_t end;

  int64_t count() const { return end - begin; }
};

Rows SampleRows(const SampleBorders& borders, int64_t n) {
  return {borders.rows[static_cast<size_t>(n)], borders.rows[static_cast<size_t>(n) + 1]};
}

/// As [1, heads, L, D], without copying.
at::Tensor Heads(const at::Tensor& packed, Rows rows, int64_t head_dim) {
  return packed.slice(0, rows.begin, rows.end).view({1, rows.count(), -1, head_dim}).transpose(1, 2);
}

/// As Heads, with each key/value head repeated for its group of query heads.
at::Tensor RepeatedHeads(const at::Tensor& packed, Rows rows, int64_t head_dim, int64_t group) {
  if (group == 1) return Heads(packed, rows, head_dim);
  const at::Tensor heads = packed.slice(0, rows.begin, rows.end).view({1, rows.count(), -1, 1, head_dim});
  return heads.expand({1, rows.count(), heads.size(2), group, head_dim})
      .reshape({1, rows.count(), heads.size(2) * group, head_dim})
      .transpose(1, 2);
}

/// Adds up the gradients of a group's copies, into `rows` of `packed`.
void StoreSummed(at::Tensor& packed, const at::Tensor& grad_1HLD, Rows rows, int64_t head_dim, int64_t group) {
  const at::Tensor grad_LHGD = grad_1HLD.squeeze(0).transpose(0, 1).reshape({rows.count(), -1, group, head_dim});
  packed.slice(0, rows.begin, rows.end).view({rows.count(), -1, head_dim})
      .copy_(group == 1 ? grad_LHGD.squeeze(2) : grad_LHGD.sum(2));
}

}  // namespace

AttentionForward AttendCpu(const AttentionInputs& in, bool keep) {
  AttentionForward forward{.out = at::empty_like(in.q)};
  for (int64_t n = 0; n < in.borders.samples(); ++n) {
    const Rows rows = SampleRows(in.borders, n);
    if (rows.count() == 0) {
      forward.saved.emplace_back();
      continue;
    }
    auto [part, logsumexp] = at::_scaled_dot_product_flash_attention_for_cpu(
        Heads(in.q, rows, in.head_dim), RepeatedHeads(in.k, rows, in.head_dim, in.group()),
        RepeatedHeads(in.v, rows, in.head_dim, in.group()), /*dropout_p=*/0, /*is_causal=*/true);
    forward.out.slice(0, rows.begin, rows.end).view({rows.count(), -1, in.head_dim}).copy_(part.squeeze(0).transpose(0, 1));
    if (keep) forward.saved.push_back(logsumexp);
  }
  return forward;
}

AttentionGradients AttendCpuBackward(const AttentionInputs& in, const AttentionForward& forward, const at::Tensor& grad) {
  AttentionGradients d{.q = at::empty_like(in.q), .k = at::empty_like(in.k), .v = at::empty_like(in.v)};
  for (int64_t n = 0; n < in.borders.samples(); ++n) {
    const Rows rows = SampleRows(in.borders, n);
    if (rows.count() == 0) continue;
    const auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        Heads(grad, rows, in.head_dim), Heads(in.q, rows, in.head_dim), RepeatedHeads(in.k, rows, in.head_dim, in.group()),
        RepeatedHeads(in.v, rows, in.head_dim, in.group()), Heads(forward.out, rows, in.head_dim),
        forward.saved[static_cast<size_t>(n)], /*dropout_p=*/0, /*is_causal=*/true);
    StoreSummed(d.q, gq, rows, in.head_dim, 1);
    StoreSummed(d.k, gk, rows, in.head_dim, in.group());
    StoreSummed(d.v, gv, rows, in.head_dim, in.group());
  }
  return d;
}

}  // namespace sbora::trainer::ops::internal
