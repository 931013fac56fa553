/// AdamW with float32 moments. Arithmetic is torch.optim.AdamW's (decoupled decay, bias correction), by
/// kernels/adamw: one pass, clipping included.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "worker/trainer/optim/optimizer.h"
#include "worker/trainer/optim/state_pages.h"

namespace sbora::trainer {

class AdamW final : public Optimizer {
 public:
  /// Moments start at zero, shaped like `parameters` ([P] float32, contiguous), on its device; with `page_elements` above 0
  /// on the host, of which so many at a time visit the device (state_pages.h): the same bits.
  AdamW(const at::Tensor& parameters, const AdamWOptions& options, int64_t page_elements = 0);

  /// "m" and "v", [P] float32 each.
  std::vector<StateTensor> State() const override;

 private:
  void Update(at::Tensor parameters, at::Tensor gradients, const StepScalars& scalars, double learning_rate) override;
  void UpdateRange(const at::Tensor& parameters, const at::Tensor& gradients, const at::Tensor& m, const at::Tensor& v,
                   const StepScalars& scalars, double learning_rate) const;

  AdamWOptions options_;
  at::Tensor first_moment_;
  at::Tensor second_moment_;
  int64_t page_elements_;
  std::unique_ptr<StatePages> pages_;  // null: the moments are on the device
};

}  // namespace sbora::trainer
