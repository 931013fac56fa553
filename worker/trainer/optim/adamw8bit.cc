#include "worker/trainer/optim/adamw8bit.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "common/check.h"
#include "kernels/adamw8bit/adamw8bit.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kBlocksPerTask = 64;

void RequireOk(const Status& status) { SBORA_CHECK(status.ok(), "AdamW in 8 bits: {}", status.ToString()); }

}  // namespace

AdamW8Bit::AdamW8Bit(const at::Tensor& parameters, const AdamWOptions& options, std::vector<Part> parts,
                     int64_t min_elements)
    : Optimizer(parameters), options_(options), min_elements_(min_elements), parts_(std::move(parts)) {
  SBORA_CHECK(parameters.is_cpu(), "AdamW in 8 bits on {}: it has no code for that device", parameters.device().str());
  int64_t large = 0;
  int64_t blocks = 0;
  int64_t small = 0;
  for (const Part& part : parts_) {
    SBORA_CHECK(part.offset >= 0 && part.size >= 0 && part.offset + part.size <= parameters.numel(),
                "elements {} to {} of {}", part.offset, part.offset + part.size, parameters.numel());
    const bool in_8_bits = part.size >= min_elements_;
    (in_8_bits ? large : small) += part.size;
    if (in_8_bits) blocks += kernels::AdamW8BitBlocks(part.size);
  }
  m_codes_ = at::zeros({large}, at::kByte);
  v_codes_ = at::zeros({large}, at::kByte);
  m_scales_ = at::zeros({blocks}, at::kFloat);
  v_scales_ = at::zeros({blocks}, at::kFloat);
  m_ = at::zeros({small}, at::kFloat);
  v_ = at::zeros({small}, at::kFloat);
}

std::vector<Optimizer::StateTensor> AdamW8Bit::State() const {
  std::vector<StateTensor> state;
  for (auto& [name, value] : std::initializer_list<StateTensor>{{"m_codes", m_codes_}, {"m_scales", m_scales_},
                                                                {"v_codes", v_codes_}, {"v_scales", v_scales_},
                                                                {"m", m_}, {"v", v_}}) {
    if (value.numel() > 0) state.push_back({name, value});
  }
  return state;
}

void AdamW8Bit::Update(at::Tensor parameters, at::Tensor gradients, const at::Tensor& not_finite, double learning_rate) {
  if (not_finite.item<float>() != 0) return;
  constexpr int64_t kBlock = kernels::kAdamW8BitBlock;
  const kernels::AdamWStep step{.beta1 = options_.beta1, .beta2 = options_.beta2, .epsilon = options_.epsilon,
                                .weight_decay = options_.weight_decay, .learning_rate = learning_rate, .step = steps()};
  float* const p = parameters.mutable_data_ptr<float>();
  const float* const g = gradients.const_data_ptr<float>();
  auto* m_codes = m_codes_.mutable_data_ptr<uint8_t>();
  auto* v_codes = v_codes_.mutable_data_ptr<uint8_t>();
  auto* m_scales = m_scales_.mutable_data_ptr<float>();
  auto* v_scales = v_scales_.mutable_data_ptr<float>();
  auto* m = m_.mutable_data_ptr<float>();
  auto* v = v_.mutable_data_ptr<float>();
  for (const auto& [offset, size] : parts_) {
    if (size < min_elements_) {
      RequireOk(kernels::UpdateAdamW32Bit(kernels::Device::kCpu, step, size, p + offset, g + offset, m, v));
      m += size;
      v += size;
      continue;
    }
    const int64_t blocks = kernels::AdamW8BitBlocks(size);
    const int64_t first = offset;  // clang 16 captures no structured bindings
    const int64_t elements = size;
    at::parallel_for(0, blocks, kBlocksPerTask, [&](int64_t begin, int64_t end) {
      const int64_t from = begin * kBlock;
      const int64_t count = std::min(end * kBlock, elements) - from;
      RequireOk(kernels::UpdateAdamW8Bit(kernels::Device::kCpu, step, count, p + first + from, g + first + from,
                                         {m_codes + from, m_scales + begin}, {v_codes + from, v_scales + begin}));
    });
    m_codes += size;
    v_codes += size;
    m_scales += blocks;
    v_scales += blocks;
  }
}

}  // namespace sbora::trainer
