#include "worker/trainer/optim/adamw8bit.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "common/check.h"
#include "worker/trainer/ops/kernel_call.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kBlocksPerTask = 64;
/// By AdamW8Bit::StateIndex, and in the order in which checkpoints have them.
constexpr std::array kStateNames{"m_codes", "m_scales", "v_codes", "v_scales", "m", "v"};

void RequireOk(const Status& status) { SBORA_CHECK(status.ok(), "AdamW in 8 bits: {}", status.ToString()); }

}  // namespace

AdamW8Bit::AdamW8Bit(const at::Tensor& parameters, const AdamWOptions& options, std::vector<Part> parts,
                     int64_t min_elements, int64_t page_elements)
    : Optimizer(parameters), options_(options) {
  SBORA_CHECK(page_elements >= 0 && page_elements % kernels::kAdamW8BitBlock == 0, "pages of {} elements", page_elements);
  for (const Part& part : parts) {
    SBORA_CHECK(part.offset >= 0 && part.size >= 0 && part.offset + part.size <= parameters.numel(),
                "elements {} to {} of {}", part.offset, part.offset + part.size, parameters.numel());
  }
  Plan(parts, min_elements, page_elements);
  const bool paged = page_elements > 0;
  for (size_t t = 0; t < kStateNames.size(); ++t) {
    int64_t elements = 0;
    for (const StatePages::Page& page : slices_) elements += page[t].size;
    const at::ScalarType type = t == kMCodes || t == kVCodes ? at::kByte : at::kFloat;
    state_.push_back(paged ? StatePages::HostZeros(elements, type, parameters.device())
                           : at::zeros({elements}, parameters.options().dtype(type)));
  }
  if (paged) pages_ = std::make_unique<StatePages>(state_, slices_, parameters.device());
}

void AdamW8Bit::Plan(const std::vector<Part>& parts, int64_t min_elements, int64_t page_elements) {
  int64_t room = 0;
  const auto new_page = [&] {
    StatePages::Page page(kStateNames.size());
    for (size_t t = 0; t < page.size() && !slices_.empty(); ++t) page[t].offset = slices_.back()[t].offset + slices_.back()[t].size;
    slices_.push_back(std::move(page));
    pieces_.emplace_back();
    room = page_elements > 0 ? page_elements : std::numeric_limits<int64_t>::max();
  };
  new_page();
  for (const Part& part : parts) {
    const bool in_8_bits = part.size >= min_elements;
    for (int64_t done = 0; done < part.size;) {
      if (room < kernels::kAdamW8BitBlock) new_page();
      const int64_t left = part.size - done;
      const int64_t size = std::min(left, room / kernels::kAdamW8BitBlock * kernels::kAdamW8BitBlock);
      Piece piece{.part = {.offset = part.offset + done, .size = size}, .in_8_bits = in_8_bits};
      const auto take = [&](StateIndex t, int64_t elements) {
        piece.state[t] = slices_.back()[t].size;
        slices_.back()[t].size += elements;
      };
      for (const StateIndex t : in_8_bits ? std::array{kMCodes, kVCodes} : std::array{kM, kV}) take(t, size);
      for (const StateIndex t : {kMScales, kVScales}) take(t, in_8_bits ? kernels::AdamW8BitBlocks(size) : 0);
      pieces_.back().push_back(piece);
      room -= size;
      done += size;
    }
  }
}

std::vector<Optimizer::StateTensor> AdamW8Bit::State() const {
  if (pages_) pages_->Settle();
  std::vector<StateTensor> state;
  for (size_t t = 0; t < kStateNames.size(); ++t) {
    if (state_[t].numel() > 0) state.push_back({kStateNames[t], state_[t]});
  }
  return state;
}

void AdamW8Bit::Update(at::Tensor parameters, at::Tensor gradients, const StepScalars& scalars, double learning_rate) {
  if (scalars.gradient_factor.defined()) gradients.mul_(scalars.gradient_factor);
  const kernels::AdamWStep step{.beta1 = options_.beta1, .beta2 = options_.beta2, .epsilon = options_.epsilon,
                                .weight_decay = options_.weight_decay, .learning_rate = learning_rate, .step = steps()};
  const auto update = [&](size_t page, const std::vector<at::Tensor>& state) {
    for (const Piece& piece : pieces_[page]) UpdatePiece(piece, step, parameters, gradients, state, scalars.not_finite);
  };
  if (pages_) {
    pages_->Visit(update);
  } else {
    update(0, state_);
  }
}

void AdamW8Bit::UpdatePiece(const Piece& piece, const kernels::AdamWStep& step, const at::Tensor& parameters,
                            const at::Tensor& gradients, const std::vector<at::Tensor>& state,
                            const at::Tensor& not_finite) const {
  constexpr int64_t kBlock = kernels::kAdamW8BitBlock;
  const ops::KernelPlace place = ops::PlaceOf(parameters);
  float* const p = parameters.mutable_data_ptr<float>() + piece.part.offset;
  const float* const g = gradients.const_data_ptr<float>() + piece.part.offset;
  const float* const skip = not_finite.const_data_ptr<float>();
  const auto floats = [&](StateIndex t) { return state[t].mutable_data_ptr<float>() + piece.state[t]; };
  if (!piece.in_8_bits) {
    RequireOk(kernels::UpdateAdamW32Bit(place.device, step, piece.part.size, p, g, floats(kM), floats(kV), skip, place.stream));
    return;
  }
  const auto codes = [&](StateIndex t) { return state[t].mutable_data_ptr<uint8_t>() + piece.state[t]; };
  const kernels::Moment8Bit m{codes(kMCodes), floats(kMScales)};
  const kernels::Moment8Bit v{codes(kVCodes), floats(kVScales)};
  if (place.device == kernels::Device::kCuda) {
    RequireOk(kernels::UpdateAdamW8Bit(place.device, step, piece.part.size, p, g, m, v, skip, place.stream));
    return;
  }
  at::parallel_for(0, kernels::AdamW8BitBlocks(piece.part.size), kBlocksPerTask, [&](int64_t begin, int64_t end) {
    const int64_t from = begin * kBlock;
    const int64_t count = std::min(end * kBlock, piece.part.size) - from;
    RequireOk(kernels::UpdateAdamW8Bit(place.device, step, count, p + from, g + from, {m.codes + from, m.scales + begin},
                                       {v.codes + from, v.scales + begin}, skip));
  });
}

}  // namespace sbora::trainer
