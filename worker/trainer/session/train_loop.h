/// The training loop over a loaded model. Include only from .cc files that see LibTorch.
///
/// A step: for each micro-batch, forward and backward of loss sum / supervised tokens of the whole step; then clipping
/// and the optimiser. With several ranks each does its share of the micro-batches, and gradients and loss are added up over all
/// ranks before the optimiser, which then does the same on each: one rank's numbers are those of all. Rank 0 alone writes
/// checkpoints and keeps the best weights.
/// On a GPU the host looks at a step's numbers after it has queued the next step; a number that is not finite
/// stops all later updates on the device, so nothing is lost by looking late.
/// Throws c10::Error (see torch_runtime.h). Threading: one thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/status.h"
#include "worker/trainer/checkpoint/checkpoint_store.h"
#include "worker/trainer/dist/gradient_reducer.h"
#include "worker/trainer/dist/process_group.h"
#include "worker/trainer/nn/adapter_set.h"
#include "worker/trainer/nn/llama.h"
#include "worker/trainer/optim/optimizer.h"
#include "worker/trainer/optim/schedule.h"
#include "worker/trainer/session/batch_source.h"
#include "worker/trainer/session/task_observer.h"
#include "worker/trainer/session/train_session.h"
#include "worker/trainer/session/trainee.h"

namespace sbora::trainer {

class TrainLoop {
 public:
  struct Parts {
    const LlamaModel* model = nullptr;         ///< borrowed
    AdapterSet* adapter = nullptr;             ///< borrowed; null: the model's own weights are trained, or nothing
    TrainedParameters* trained = nullptr;      ///< borrowed; the adapter's or the model's; empty when nothing is trained
    Optimizer* optimizer = nullptr;            ///< borrowed
    const BatchSource* data = nullptr;         ///< borrowed
    const BatchSource* validation = nullptr;   ///< borrowed; null for none
    CheckpointStore* checkpoints = nullptr;    ///< borrowed
    TaskObserver* observer = nullptr;          ///< borrowed
    ProcessGroup* group = nullptr;             ///< borrowed; null for one rank
    GradientReducer* reducer = nullptr;        ///< borrowed; with a group only
    core::ComputeForm form = core::ComputeForm::kPlain;  ///< of the adapter; for checkpoints to tell
  };
  TrainLoop(const core::JobSpec& spec, const Parts& parts);

  /// Takes a checkpoint's place instead of step 0. Errors: those of CheckpointStore::Read; the loop is of no use then.
  Status Restore(const CheckpointStore& store, const FoundCheckpoint& checkpoint);
  /// To the last step (true), or to a checkpoint after a stop was asked for (false). A stop that one of several ranks was
  /// asked for is one of all, after the same step. Errors: NON_FINITE; those of CheckpointStore::Save, and of sums.
  StatusOr<bool> Run();

  const TrainState& state() const { return state_; }
  int64_t total_steps() const { return schedule_.total_steps; }
  /// On rank 0: the weights to commit, with keep_best those of the best validation, else the last. On the host, as long as
  /// the loop and the trained parameters live.
  StatusOr<std::span<const float>> FinalParameters();
  bool KeptBest() const { return spec_.keep_best && !best_.empty(); }

 private:
  /// A step whose numbers the host has not read.
  struct Pending {
    int64_t step = 0;  ///< from 0
    StepBatch batch;
    double learning_rate = 0;
    at::Tensor readback;
  };

  StatusOr<Pending> Launch(int64_t step);
  /// [3] float64, added up beside the gradients: loss sum, whether a stop was asked for, and from rank 0 its newest
  /// checkpoint's step + 1.
  at::Tensor Control(const at::Tensor& loss_sum) const;
  /// From a step's control.
  void TakeControl(int64_t step, double stops, double checkpoint);
  bool LooksLate() const { return parts_.model->device().is_cuda(); }
  bool Leads() const { return parts_.group == nullptr || parts_.group->rank() == 0; }
  bool StopDue(int64_t step) const;
  /// Reads the pending step's numbers, if there is one. `boundary`: no later step was launched, so weights and moments
  /// are those of the step, and validation and checkpoints may look at them.
  Status FinishPending(bool boundary);
  Status Validate();
  StatusOr<double> ValidationLoss();
  Status Checkpoint();
  bool ValidationDue(int64_t steps_done) const;
  bool CheckpointDue(int64_t steps_done) const;
  void ReportProgress(const StepMetrics& metrics, std::string phase = "training");
  Status CheckFinite(std::span<const float> parameters) const;
  Status NotFinite(std::string_view what, double value, int64_t step) const;

  const core::JobSpec spec_;
  const Parts parts_;
  const ScheduleOptions schedule_;
  TrainState state_;
  std::vector<float> best_;
  std::optional<HostBytes> final_;
  std::optional<Pending> pending_;
  std::optional<int64_t> checkpointed_step_;
  std::optional<int64_t> stop_at_;  ///< with a group: steps done when all ranks stop
  MonotonicTime checkpointed_at_;
  MonotonicTime step_started_;
  double mean_step_seconds_ = 0;
  StepMetrics last_metrics_;  ///< of the last step done, for progress while validating
};

}  // namespace sbora::trainer
