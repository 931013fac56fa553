#include <ATen/ATen.h>

#include <utility>

#include "common/check.h"
#include "worker/trainer/ops/frozen_layers.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

/// Rows of one sample as [1, heads, L, D], without copying.
at::Tensor Heads(const at::Tensor& packed, int64_t begin, int64_t end, int64_t head_dim) {
  return packed.slice(0, begin, end).view({1, end - begin, -1, head_dim}).transpose(1, 2);
}

/// As Heads, with each key/value head repeated for its group of query heads.
at::Tensor RepeatedHeads(const at::Tensor& packed, int64_t begin, int64_t end, int64_t head_dim, int64_t group) {
  if (group == 1) return Heads(packed, begin, end, head_dim);
  const at::Tensor heads = packed.slice(0, begin, end).view({1, end - begin, -1, 1, head_dim});
  return heads.expand({1, end - begin, heads.size(2), group, head_dim})
      .reshape({1, end - begin, heads.size(2) * group, head_dim})
      .transpose(1, 2);
}

/// Adds the gradients of a group's copies, into rows [begin, end) of `packed`.
void StoreSummed(at::Tensor& packed, const at::Tensor& grad_1HLD, int64_t begin, int64_t end, int64_t head_dim,
                 int64_t group) {
  const at::Tensor grad_LHGD =
      grad_1HLD.squeeze(0).transpose(0, 1).reshape({end - begin, -1, group, head_dim});
  packed.slice(0, begin, end).view({end - begin, -1, head_dim}).copy_(group == 1 ? grad_LHGD.squeeze(2) : grad_LHGD.sum(2));
}

struct AttentionBackward final : torch::autograd::Node {
  at::Tensor q, k, v, out;  // packed rows
  std::vector<at::Tensor> logsumexp;  // per sample [1, Hq, L]
  std::vector<int64_t> cu_seqlens;
  int64_t head_dim = 0;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor(), at::Tensor()};
    SBORA_CHECK(q.defined(), "second backward through PackedCausalAttention");
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor dq = at::empty_like(q);
    at::Tensor dk = at::empty_like(k);
    at::Tensor dv = at::empty_like(v);
    const int64_t group = q.size(1) / k.size(1);
    for (size_t n = 0; n + 1 < cu_seqlens.size(); ++n) {
      const int64_t begin = cu_seqlens[n];
      const int64_t end = cu_seqlens[n + 1];
      if (begin == end) continue;
      const auto [gq, gk, gv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
          Heads(grad, begin, end, head_dim), Heads(q, begin, end, head_dim), RepeatedHeads(k, begin, end, head_dim, group),
          RepeatedHeads(v, begin, end, head_dim, group), Heads(out, begin, end, head_dim), logsumexp[n],
          /*dropout_p=*/0, /*is_causal=*/true);
      StoreSummed(dq, gq, begin, end, head_dim, 1);
      StoreSummed(dk, gk, begin, end, head_dim, group);
      StoreSummed(dv, gv, begin, end, head_dim, group);
    }
    return {dq, dk, dv};
  }
  void release_variables() override {
    q.reset();
    k.reset();
    v.reset();
    out.reset();
    logsumexp.clear();
  }
};

}  // namespace

at::Tensor PackedCausalAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t head_dim,
                                 const std::vector<int64_t>& cu_seqlens) {
  SBORA_CHECK(q.is_cpu(), "attention on {}: this build's trainer runs on the CPU", q.device().str());
  SBORA_CHECK(q.size(1) % k.size(1) == 0 && k.size(1) == v.size(1), "attention heads: q {}, k {}, v {} columns",
              q.size(1), k.size(1), v.size(1));
  SBORA_CHECK(!cu_seqlens.empty() && cu_seqlens.back() == q.size(0), "attention: {} rows, borders end at {}", q.size(0),
              cu_seqlens.empty() ? -1 : cu_seqlens.back());
  const bool graph = NeedsGraph(q, k, v);
  const int64_t group = q.size(1) / k.size(1);
  at::Tensor out;
  std::vector<at::Tensor> logsumexp;
  {
    at::NoGradGuard no_grad;
    out = at::empty_like(q);
    for (size_t n = 0; n + 1 < cu_seqlens.size(); ++n) {
      const int64_t begin = cu_seqlens[n];
      const int64_t end = cu_seqlens[n + 1];
      if (begin == end) {
        logsumexp.emplace_back();
        continue;
      }
      auto [part, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
          Heads(q, begin, end, head_dim), RepeatedHeads(k, begin, end, head_dim, group),
          RepeatedHeads(v, begin, end, head_dim, group), /*dropout_p=*/0, /*is_causal=*/true);
      out.slice(0, begin, end).view({end - begin, -1, head_dim}).copy_(part.squeeze(0).transpose(0, 1));
      if (graph) logsumexp.push_back(lse);
    }
  }
  if (graph) {
    auto node = std::make_shared<AttentionBackward>();
    node->q = q.detach();
    node->k = k.detach();
    node->v = v.detach();
    node->out = out.detach();
    node->logsumexp = std::move(logsumexp);
    node->cu_seqlens = cu_seqlens;
    node->head_dim = head_dim;
    Record(out, std::move(node), q, k, v);
  }
  return out;
}

}  // namespace sbora::trainer::ops
