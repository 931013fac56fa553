#include "worker/trainer/ops/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "common/check.h"
#include "worker/trainer/ops/node.h"

namespace sbora::trainer::ops {
namespace {

using torch::autograd::variable_list;

struct AttentionBackward final : torch::autograd::Node {
  internal::AttentionInputs in;
  internal::AttentionForward forward;

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) return {at::Tensor(), at::Tensor(), at::Tensor()};
    SBORA_CHECK(in.q.defined(), "second backward through PackedCausalAttention");
    const at::Tensor grad = grads[0].contiguous();
    internal::AttentionGradients d = in.q.is_cpu() ? internal::AttendCpuBackward(in, forward, grad)
                                                   : internal::AttendCudaBackward(in, forward, grad);
    return {std::move(d.q), std::move(d.k), std::move(d.v)};
  }
  void release_variables() override {
    in = {};
    forward = {};
  }
};

}  // namespace

SampleBorders MakeSampleBorders(const std::vector<int64_t>& cu_seqlens, at::Device device) {
  SBORA_CHECK(!cu_seqlens.empty() && cu_seqlens.front() == 0, "borders of {} entries", cu_seqlens.size());
  SampleBorders borders{.rows = cu_seqlens, .device_rows = {}, .longest = 0};
  for (size_t n = 1; n < cu_seqlens.size(); ++n) {
    SBORA_CHECK(cu_seqlens[n] >= cu_seqlens[n - 1], "border {} is {} after {}", n, cu_seqlens[n], cu_seqlens[n - 1]);
    borders.longest = std::max(borders.longest, cu_seqlens[n] - cu_seqlens[n - 1]);
  }
  if (!device.is_cpu()) borders.device_rows = at::tensor(at::ArrayRef<int64_t>(cu_seqlens), at::kLong).to(device, at::kInt);
  return borders;
}

at::Tensor PackedCausalAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t head_dim,
                                 const SampleBorders& borders) {
  SBORA_CHECK(q.size(1) % k.size(1) == 0 && k.size(1) == v.size(1), "attention heads: q {}, k {}, v {} columns",
              q.size(1), k.size(1), v.size(1));
  SBORA_CHECK(!borders.rows.empty() && borders.rows.back() == q.size(0), "attention: {} rows, borders end at {}",
              q.size(0), borders.rows.empty() ? -1 : borders.rows.back());
  const bool graph = NeedsGraph(q, k, v);
  internal::AttentionInputs in{.q = q.detach(), .k = k.detach(), .v = v.detach(), .head_dim = head_dim, .borders = borders};
  internal::AttentionForward forward;
  {
    at::NoGradGuard no_grad;
    forward = q.is_cpu() ? internal::AttendCpu(in, graph) : internal::AttendCuda(in, graph);
  }
  at::Tensor out = forward.out;
  if (graph) {
    forward.out = out.detach();
    auto node = std::make_shared<AttentionBackward>();
    node->in = std::move(in);
    node->forward = std::move(forward);
    Record(out, std::move(node), q, k, v);
  }
  return out;
}

}  // namespace sbora::trainer::ops
