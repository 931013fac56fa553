/// An optimiser over one flat float32 buffer, with global-norm clipping and a sticky "not finite" flag, all on the device.
///
///     AdamW optimizer(trained.parameters(), {.weight_decay = 0.01});
///     trained.ZeroGradients();
///     ... backward passes of sum / count ...
///     at::Tensor readback = optimizer.Step(trained.parameters(), trained.gradients(), loss_sum, rate, max_norm);
///     ... later: Optimizer::Read(readback) ...
///
/// Clipping is torch.nn.utils.clip_grad_norm_'s. Once a loss or a gradient is not finite, that update and every later one
/// is skipped without the host's help: the parameters stay at the last finite step, whenever the host looks.
/// Errors: c10::Error for shapes. Threading: one thread at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace sbora::trainer {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// What a step saw, on the host.
  struct StepReport {
    double loss_sum = 0;
    double gradient_norm = 0;  ///< before clipping
    bool finite = true;        ///< of this step and all before it
  };

  /// One update in place, which `parameters`' version tells (AdapterSet::RowNorms relies on it). When clipping,
  /// `gradients` may be left scaled. `loss_sum` is a float32 or float64 scalar tensor on the device; it takes part in the finiteness
  /// check only. `max_gradient_norm` 0: no clipping. Returns [3] float64 on the device for Read: reading it one step
  /// later keeps the device busy.
  at::Tensor Step(const at::Tensor& parameters, const at::Tensor& gradients, const at::Tensor& loss_sum,
                  double learning_rate, double max_gradient_norm);
  /// `readback`: what Step returned, or that with more behind it.
  static StepReport Read(const at::Tensor& readback);
  static constexpr int kReadbackSize = 3;

  /// Updates applied, plus those skipped after the first that was not finite. Restored with the state on a resume.
  int64_t steps() const { return steps_; }
  void SetSteps(int64_t steps) { steps_ = steps; }

  /// What a resume needs beside steps(): contiguous, on the device; write in place only. Always the same list.
  struct StateTensor {
    std::string name;
    at::Tensor value;
  };
  virtual std::vector<StateTensor> State() const = 0;

 protected:
  /// Scalars of a step, on the device.
  struct StepScalars {
    at::Tensor gradient_factor;  ///< [] float32, for clipping; undefined: 1
    at::Tensor not_finite;       ///< [] float32, 0 or 1
  };
  explicit Optimizer(const at::Tensor& parameters);

 private:
  /// The update of step number steps(), with gradients times the factor; skipped where not_finite is 1. May scale
  /// `gradients`.
  virtual void Update(at::Tensor parameters, at::Tensor gradients, const StepScalars& scalars, double learning_rate) = 0;

  int64_t steps_ = 0;
  at::Tensor not_finite_;  // sticky
};

}  // namespace sbora::trainer
