/// Causal attention over packed samples, and its backends.
///
/// Legend: T tokens, D head_dim, Hq query heads, Hkv key/value heads (a divisor of Hq), N samples.
/// | backend   | device and dtype                        | grouped heads       | kept per row and head |
/// | CPU flash | CPU, any float                          | repeated for a call | one float             |
/// | flash     | CUDA, float16 and bfloat16, D <= 256, D % 8 == 0 | native     | one float             |
/// | efficient | CUDA, all others                        | repeated for a call | one float             |
/// All are LibTorch's kernels. With deterministic algorithms set (SetUpTorch) each repeats its bits on one machine.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace sbora::trainer::ops {

/// Where the samples of packed rows begin.
struct SampleBorders {
  std::vector<int64_t> rows;  ///< [N + 1] from 0 to T, non-decreasing
  at::Tensor device_rows;     ///< the same as int32 on the device; undefined on the CPU
  int64_t longest = 0;        ///< rows of the longest sample

  int64_t samples() const { return static_cast<int64_t>(rows.size()) - 1; }
};

/// Make it once for all layers. REQUIRED: cu_seqlens starts with 0 and does not decrease.
SampleBorders MakeSampleBorders(const std::vector<int64_t>& cu_seqlens, at::Device device);

/// Causal within each sample. q is [T, Hq * D], k and v [T, Hkv * D]; returns [T, Hq * D], scaled by 1 / sqrt(D). Keeps
/// q, k, v, the output and one float per row and head. Errors: c10::Error for a shape that the backend refuses.
at::Tensor PackedCausalAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t head_dim,
                                 const SampleBorders& borders);

namespace internal {

/// What a backend's forward pass returns and its backward pass takes.
struct AttentionForward {
  at::Tensor out;                     ///< [T, Hq * D]
  std::vector<at::Tensor> saved = {};  ///< the backend's own; empty unless asked for
};

struct AttentionGradients {
  at::Tensor q, k, v;
};

struct AttentionInputs {
  at::Tensor q, k, v;
  int64_t head_dim = 0;
  SampleBorders borders;

  int64_t group() const { return q.size(1) / k.size(1); }  ///< query heads per key/value head
};

AttentionForward AttendCpu(const AttentionInputs& in, bool keep);
AttentionGradients AttendCpuBackward(const AttentionInputs& in, const AttentionForward& forward, const at::Tensor& grad);
AttentionForward AttendCuda(const AttentionInputs& in, bool keep);
AttentionGradients AttendCudaBackward(const AttentionInputs& in, const AttentionForward& forward, const at::Tensor& grad);

}  // namespace internal
}  // namespace sbora::trainer::ops
