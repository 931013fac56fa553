/// AdamW on one flat float32 buffer, with global-norm clipping and a sticky "not finite" flag, all on the device.
///
///     AdamW optimizer(adapter->parameters(), {.weight_decay = 0.01});
///     adapter->ZeroGradients();
///     ... backward passes of sum / count ...
///     at::Tensor readback = optimizer.Step(adapter->parameters(), adapter->gradients(), loss_sum, rate, max_norm);
///     ... later: optimizer.Read(readback) ...
///
/// Arithmetic is torch.optim.AdamW's (decoupled decay, bias correction) and torch.nn.utils.clip_grad_norm_'s.
/// Once a loss or a gradient is not finite, that update and every later one is skipped without the host's help: the
/// parameters stay at the last finite step, whenever the host looks.
/// Errors: c10::Error for shapes. Threading: one thread at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sbora::trainer {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
};

class AdamW {
 public:
  /// Moments start at zero, shaped like `parameters` ([P] float32, contiguous), on its device.
  AdamW(const at::Tensor& parameters, const AdamWOptions& options);

  /// What a step saw, on the host.
  struct StepReport {
    double loss_sum = 0;
    double gradient_norm = 0;  ///< before clipping
    bool finite = true;        ///< of this step and all before it
  };

  /// One update in place, which `parameters`' version tells (AdapterSet::RowNorms relies on it); scales `gradients`
  /// when clipping. `loss_sum` is a float32 or float64 scalar tensor on the device; it takes part in the finiteness
  /// check only. `max_gradient_norm` 0: no clipping. Returns [3] float64 on the device for Read: reading it one step
  /// later keeps the device busy.
  at::Tensor Step(const at::Tensor& parameters, const at::Tensor& gradients, const at::Tensor& loss_sum,
                  double learning_rate, double max_gradient_norm);
  static StepReport Read(const at::Tensor& readback);

  /// Updates applied, plus those skipped after the first that was not finite. Restored with the moments on a resume.
  int64_t steps() const { return steps_; }
  void SetSteps(int64_t steps) { steps_ = steps; }

  /// [P] float32 on the device; write in place only.
  const at::Tensor& first_moment() const { return first_moment_; }
  const at::Tensor& second_moment() const { return second_moment_; }

 private:
  AdamWOptions options_;
  int64_t steps_ = 0;
  at::Tensor first_moment_;
  at::Tensor second_moment_;
  at::Tensor step_count_;  // [] float32, as the fused kernel wants it
  at::Tensor not_finite_;  // [] float32, 0 or 1, sticky
};

}  // namespace sbora::trainer
