/// AdamW with float32 moments. Arithmetic is torch.optim.AdamW's (decoupled decay, bias correction).
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "worker/trainer/optim/optimizer.h"

namespace sbora::trainer {

class AdamW final : public Optimizer {
 public:
  /// Moments start at zero, shaped like `parameters` ([P] float32, contiguous), on its device.
  AdamW(const at::Tensor& parameters, const AdamWOptions& options);

  /// "m" and "v", [P] float32 each.
  std::vector<StateTensor> State() const override;

 private:
  void Update(at::Tensor parameters, at::Tensor gradients, const at::Tensor& not_finite, double learning_rate) override;

  AdamWOptions options_;
  at::Tensor first_moment_;
  at::Tensor second_moment_;
  at::Tensor step_count_;  // [] float32, as the fused kernel wants it
};

}  // namespace sbora::trainer
