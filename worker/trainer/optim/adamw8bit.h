/// AdamW with moments in 8 bits (arXiv 2110.02861), as bitsandbytes' AdamW8bit: kernels/adamw8bit/adamw8bit.h has the
/// arithmetic. A quarter of AdamW's state: 2 bytes and two 256ths of a float for a parameter, instead of 8.
///
/// Blocks of 256 begin anew with each named tensor, and tensors of fewer than `min_elements` keep float32 moments, both as
/// in bitsandbytes: SBoRA's factors of small models may all stay in float32.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/adamw8bit/adamw8bit.h"
#include "worker/trainer/optim/optimizer.h"
#include "worker/trainer/optim/state_pages.h"

namespace sbora::trainer {

class AdamW8Bit final : public Optimizer {
 public:
  /// A named tensor's elements in the flat vector.
  struct Part {
    int64_t offset = 0;
    int64_t size = 0;
  };
  /// REQUIRED: parts that do not overlap. What is in no part is not updated. With `page_elements` (0, or a multiple of 256)
  /// above 0 the moments are on the host, of which so many at a time visit the device (state_pages.h): the same bits.
  AdamW8Bit(const at::Tensor& parameters, const AdamWOptions& options, std::vector<Part> parts, int64_t min_elements,
            int64_t page_elements = 0);

  /// m_codes, v_codes (uint8, one per element), m_scales, v_scales (float32, one per block) of the large parts, and m, v
  /// (float32) of the small ones, each laid end to end in the order of the parts. Lists without elements are left out.
  std::vector<StateTensor> State() const override;

 private:
  void Update(at::Tensor parameters, at::Tensor gradients, const StepScalars& scalars, double learning_rate) override;

  enum StateIndex : size_t { kMCodes, kMScales, kVCodes, kVScales, kM, kV };
  /// Of one part, or of a stretch of it that begins at a multiple of 256; `state` says where its moments begin in each
  /// tensor of a page.
  struct Piece {
    Part part;
    bool in_8_bits = false;
    std::array<int64_t, 6> state = {};
  };
  void Plan(const std::vector<Part>& parts, int64_t min_elements, int64_t page_elements);
  void UpdatePiece(const Piece& piece, const kernels::AdamWStep& step, const at::Tensor& parameters,
                   const at::Tensor& gradients, const std::vector<at::Tensor>& state, const at::Tensor& not_finite) const;

  AdamWOptions options_;
  std::vector<std::vector<Piece>> pieces_;  // of each page; one page when the state is on the device
  std::vector<StatePages::Page> slices_;    // of each page
  std::vector<at::Tensor> state_;           // by StateIndex
  std::unique_ptr<StatePages> pages_;       // null: the state is on the device
};

}  // namespace sbora::trainer
