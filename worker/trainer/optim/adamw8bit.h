/// AdamW with moments in 8 bits (arXiv 2110.02861), as bitsandbytes' AdamW8bit: kernels/adamw8bit/adamw8bit.h has the
/// arithmetic. A quarter of AdamW's state: 2 bytes and two 256ths of a float for a parameter, instead of 8.
///
/// Blocks of 256 begin anew with each named tensor, and tensors of fewer than `min_elements` keep float32 moments, both as
/// in bitsandbytes: SBoRA's factors of small models may all stay in float32. On the CPU only.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/trainer/optim/optimizer.h"

namespace sbora::trainer {

class AdamW8Bit final : public Optimizer {
 public:
  /// A named tensor's elements in the flat vector.
  struct Part {
    int64_t offset = 0;
    int64_t size = 0;
  };
  /// REQUIRED: parameters [P] float32 on the CPU; parts that do not overlap. What is in no part is not updated.
  AdamW8Bit(const at::Tensor& parameters, const AdamWOptions& options, std::vector<Part> parts, int64_t min_elements);

  /// m_codes, v_codes (uint8, one per element), m_scales, v_scales (float32, one per block) of the large parts, and m, v
  /// (float32) of the small ones, each laid end to end in the order of the parts. Lists without elements are left out.
  std::vector<StateTensor> State() const override;

 private:
  void Update(at::Tensor parameters, at::Tensor gradients, const at::Tensor& not_finite, double learning_rate) override;

  AdamWOptions options_;
  int64_t min_elements_;
  std::vector<Part> parts_;
  at::Tensor m_codes_, m_scales_, v_codes_, v_scales_;
  at::Tensor m_, v_;
};

}  // namespace sbora::trainer
