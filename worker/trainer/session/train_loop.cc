#include "worker/trainer/session/train_loop.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "common/status_macros.h"
#include "worker/trainer/session/adapter_binding.h"
#include "worker/trainer/session/torch_runtime.h"

namespace sbora::trainer {
namespace {

double SecondsBetween(MonotonicTime from, MonotonicTime to) { return std::chrono::duration<double>(to - from).count(); }

}  // namespace

TrainLoop::TrainLoop(const core::JobSpec& spec, const Parts& parts)
    : spec_(spec),
      parts_(parts),
      schedule_{.kind = spec.training.schedule,
                .peak = spec.training.learning_rate,
                .warmup_steps = spec.training.warmup_steps,
                .total_steps = parts.data->total_steps()} {}

Status TrainLoop::Restore(const CheckpointStore& store, const FoundCheckpoint& checkpoint) {
  HostBytes parameters(parts_.trained->parameters());
  std::vector<HostBytes> optimizer;
  for (const auto& tensor : parts_.optimizer->State()) optimizer.emplace_back(tensor.value);
  CheckpointTarget target{.parameters = parameters.mutable_floats(), .optimizer = {}, .best = &best_};
  for (HostBytes& tensor : optimizer) target.optimizer.push_back(tensor.mutable_bytes());
  SBORA_RETURN_IF_ERROR(store.Read(checkpoint, target));
  parameters.Commit();
  for (HostBytes& tensor : optimizer) tensor.Commit();
  if (!Leads()) best_ = {};
  state_ = checkpoint.state;
  parts_.optimizer->SetSteps(state_.step);
  checkpointed_step_ = state_.step;
  last_metrics_ = {.step = state_.step, .loss = state_.last_loss, .trained_tokens = state_.trained_tokens,
                   .validation_loss = {}};
  return OkStatus();
}

StatusOr<bool> TrainLoop::Run() {
  checkpointed_at_ = step_started_ = SystemClock().Now();
  const bool look_late = LooksLate();
  const int64_t first_step = state_.step;
  for (;;) {
    const int64_t step = state_.step + (pending_ ? 1 : 0);
    if (step >= schedule_.total_steps) break;  // before a stop: what is done is done
    if (StopDue(step)) {
      SBORA_RETURN_IF_ERROR(FinishPending(/*boundary=*/true));
      if (Leads() && state_.step > first_step && checkpointed_step_ != state_.step) SBORA_RETURN_IF_ERROR(Checkpoint());
      return false;
    }
    SBORA_ASSIGN_OR_RETURN(Pending launched, Launch(step));
    SBORA_RETURN_IF_ERROR(FinishPending(/*boundary=*/false));
    pending_ = std::move(launched);
    if (!look_late || ValidationDue(step + 1) || CheckpointDue(step + 1)) {
      SBORA_RETURN_IF_ERROR(FinishPending(/*boundary=*/true));
    }
  }
  SBORA_RETURN_IF_ERROR(FinishPending(/*boundary=*/true));
  // A run resumed at its very end, or one whose last validation was cut off.
  if (parts_.validation != nullptr && state_.last_validation_step != state_.step) SBORA_RETURN_IF_ERROR(Validate());
  return true;
}

bool TrainLoop::StopDue(int64_t step) const {
  if (parts_.group == nullptr) return parts_.observer->StopRequested();
  return stop_at_ && step >= *stop_at_;
}

at::Tensor TrainLoop::Control(const at::Tensor& loss_sum) const {
  const auto number = [&](double value) { return at::full({}, value, loss_sum.options()); };
  const bool tells = Leads() && checkpointed_step_;
  return at::stack({loss_sum, number(parts_.observer->StopRequested() ? 1 : 0),
                    number(tells ? static_cast<double>(*checkpointed_step_ + 1) : 0)});
}

void TrainLoop::TakeControl(int64_t step, double stops, double checkpoint) {
  // Whether the host looks late or not, and some ranks sooner than others: all have launched these steps and no more.
  if (stops > 0 && !stop_at_) stop_at_ = step + 1 + (LooksLate() ? 1 : 0);
  if (!Leads() && checkpoint > 0) checkpointed_step_ = static_cast<int64_t>(checkpoint) - 1;
}

StatusOr<TrainLoop::Pending> TrainLoop::Launch(int64_t step) {
  Pending pending{.step = step,
                  .batch = parts_.data->Step(step),
                  .learning_rate = LearningRateAt(schedule_, step),
                  .readback = {}};
  const TrainContext context{.training = true, .seed = spec_.training.seed, .epoch = pending.batch.epoch_index,
                             .input_gradient = parts_.trained->parameter_count() == 0,
                             .gradient_checkpointing = spec_.training.gradient_checkpointing};
  // Divided by the whole step's count before the backward pass: any split into micro-batches adds up to one mean.
  const double count = static_cast<double>(std::max<int64_t>(1, pending.batch.supervised_tokens));
  at::Tensor loss_sum = at::zeros({}, at::TensorOptions(at::kDouble).device(parts_.model->device()));
  parts_.trained->ZeroGradients();
  at::Tensor control;
  size_t left = pending.batch.micro_batches.size();
  const auto begin_sums = [&] {
    if (parts_.reducer == nullptr || left > 0) return;
    control = Control(loss_sum);
    parts_.reducer->Begin(control);
  };
  begin_sums();
  for (const auto& samples : pending.batch.micro_batches) {
    const LossResult loss = parts_.model->ForwardLoss(parts_.data->Pack(samples), parts_.adapter, context);
    loss_sum += loss.sum.detach();
    --left;
    begin_sums();
    (loss.sum / count).backward();
  }
  if (parts_.reducer != nullptr) {
    SBORA_RETURN_IF_ERROR(parts_.reducer->Finish());
    loss_sum = control[0];
  }
  pending.readback = parts_.optimizer->Step(parts_.trained->parameters(), parts_.trained->gradients(), loss_sum,
                                            pending.learning_rate, spec_.training.max_gradient_norm);
  if (parts_.reducer != nullptr) pending.readback = at::cat({pending.readback, control.narrow(0, 1, 2)});
  return pending;
}

Status TrainLoop::FinishPending(bool boundary) {
  if (!pending_) return OkStatus();
  const Pending pending = *std::exchange(pending_, std::nullopt);
  const at::Tensor numbers = pending.readback.cpu();
  const Optimizer::StepReport report = Optimizer::Read(numbers);
  if (parts_.reducer != nullptr) {
    const double* values = numbers.const_data_ptr<double>() + Optimizer::kReadbackSize;
    TakeControl(pending.step, values[0], values[1]);
  }
  if (!std::isfinite(report.loss_sum)) return NotFinite("the loss", report.loss_sum, pending.step + 1);
  if (!report.finite) return NotFinite("the gradient norm", report.gradient_norm, pending.step + 1);

  const double seconds = SecondsBetween(step_started_, SystemClock().Now());
  mean_step_seconds_ = mean_step_seconds_ == 0 ? seconds : 0.9 * mean_step_seconds_ + 0.1 * seconds;
  state_.step = pending.step + 1;
  state_.epoch = pending.batch.epoch;
  state_.trained_tokens += pending.batch.tokens;
  state_.seconds += seconds;
  state_.last_loss = report.loss_sum / static_cast<double>(std::max<int64_t>(1, pending.batch.supervised_tokens));
  StepMetrics metrics{.step = state_.step,
                      .loss = state_.last_loss,
                      .learning_rate = pending.learning_rate,
                      .gradient_norm = report.gradient_norm,
                      .tokens_per_second = static_cast<double>(pending.batch.tokens) / std::max(seconds, 1e-9),
                      .trained_tokens = state_.trained_tokens,
                      .validation_loss = {},
                      .epoch = state_.epoch};
  last_metrics_ = metrics;
  if (boundary && ValidationDue(state_.step)) {
    SBORA_RETURN_IF_ERROR(Validate());
    metrics.validation_loss = state_.last_validation_loss;
  }
  parts_.observer->OnMetrics(metrics);
  ReportProgress(metrics);
  if (boundary && CheckpointDue(state_.step)) SBORA_RETURN_IF_ERROR(Checkpoint());
  step_started_ = SystemClock().Now();
  return OkStatus();
}

bool TrainLoop::ValidationDue(int64_t steps_done) const {
  if (parts_.validation == nullptr) return false;
  if (steps_done == schedule_.total_steps) return true;
  return spec_.validate_every_steps > 0 && steps_done % spec_.validate_every_steps == 0;
}

bool TrainLoop::CheckpointDue(int64_t steps_done) const {
  if (!Leads()) return false;
  if (steps_done == schedule_.total_steps) return false;  // the artifact follows at once
  if (spec_.checkpoint_every_steps > 0 && steps_done % spec_.checkpoint_every_steps == 0) return true;
  return spec_.checkpoint_every_seconds > 0 &&
         SecondsBetween(checkpointed_at_, SystemClock().Now()) >= spec_.checkpoint_every_seconds;
}

StatusOr<double> TrainLoop::ValidationLoss() {
  at::Tensor sum = at::zeros({}, at::TensorOptions(at::kDouble).device(parts_.model->device()));
  int64_t count = 0;
  const auto batches = parts_.validation->InOrder(spec_.training.micro_batch_size);
  for (size_t i = 0; i < batches.size(); ++i) {
    const PackedBatch packed = parts_.validation->Pack(batches[i]);
    if (packed.supervised_rows.empty()) continue;
    const LossResult loss = parts_.model->ForwardLoss(packed, parts_.adapter, {.training = false});
    sum += loss.sum.detach();
    count += loss.count;
    ReportProgress(last_metrics_, fmt::format("validating ({} of {} batches)", i + 1, batches.size()));
  }
  const at::Tensor sum_and_count = at::stack({sum, at::full({}, static_cast<double>(count), sum.options())});
  if (parts_.group != nullptr) SBORA_RETURN_IF_ERROR(parts_.group->Sum(sum_and_count));
  const at::Tensor host = sum_and_count.cpu();
  const double* values = host.const_data_ptr<double>();
  return values[0] / std::max(1.0, values[1]);
}

Status TrainLoop::Validate() {
  SBORA_ASSIGN_OR_RETURN(const double loss, ValidationLoss());
  if (!std::isfinite(loss)) return NotFinite("the validation loss", loss, state_.step);
  state_.last_validation_loss = loss;
  state_.last_validation_step = state_.step;
  if (!state_.best_validation_loss || loss < *state_.best_validation_loss) {
    state_.best_validation_loss = loss;
    state_.best_step = state_.step;
    if (spec_.keep_best && Leads()) best_ = ToHost(parts_.trained->parameters());
  }
  return OkStatus();
}

Status TrainLoop::Checkpoint() {
  const HostBytes parameters(parts_.trained->parameters());
  SBORA_RETURN_IF_ERROR(CheckFinite(parameters.floats()));
  std::vector<HostBytes> optimizer;
  for (const auto& tensor : parts_.optimizer->State()) optimizer.emplace_back(tensor.value);
  CheckpointContents contents{.parameters = parameters.floats(), .optimizer = {}, .best = best_};
  for (const HostBytes& tensor : optimizer) contents.optimizer.push_back(tensor.bytes());
  const int ranks = parts_.group == nullptr ? 1 : parts_.group->world_size();
  state_.place = CurrentPlace(ranks, parts_.model->device(), parts_.model->dtype(), parts_.form);
  SBORA_ASSIGN_OR_RETURN(const std::string folder, parts_.checkpoints->Save(state_, contents));
  checkpointed_step_ = state_.step;
  checkpointed_at_ = SystemClock().Now();
  const bool fresh = state_.last_validation_step == state_.step;
  parts_.observer->OnCheckpoint(state_.step, folder, fresh ? state_.last_validation_loss : std::nullopt);
  return OkStatus();
}

void TrainLoop::ReportProgress(const StepMetrics& metrics, std::string phase) {
  const double steps_left = static_cast<double>(schedule_.total_steps - state_.step);
  parts_.observer->OnProgress({.step = metrics.step,
                               .total_steps = schedule_.total_steps,
                               .loss = metrics.loss,
                               .validation_loss = state_.last_validation_loss.value_or(0),
                               .tokens_per_second = metrics.tokens_per_second,
                               .learning_rate = metrics.learning_rate,
                               .remaining_seconds = steps_left * mean_step_seconds_,
                               .trained_tokens = metrics.trained_tokens,
                               .phase = std::move(phase)});
}

StatusOr<std::span<const float>> TrainLoop::FinalParameters() {
  if (!KeptBest()) final_.emplace(parts_.trained->parameters());
  const std::span<const float> parameters = KeptBest() ? std::span<const float>(best_) : final_->floats();
  SBORA_RETURN_IF_ERROR(CheckFinite(parameters));
  return parameters;
}

Status TrainLoop::CheckFinite(std::span<const float> parameters) const {
  // Loss and gradient are looked at before an update; what the last update did shows in the weights alone.
  const auto bad = std::find_if(parameters.begin(), parameters.end(), [](float value) { return !std::isfinite(value); });
  return bad == parameters.end() ? OkStatus() : NotFinite("a weight after the update", *bad, state_.step);
}

Status TrainLoop::NotFinite(std::string_view what, double value, int64_t step) const {
  const std::string kept = checkpointed_step_ ? fmt::format("the checkpoint of step {} is kept", *checkpointed_step_)
                                              : std::string("no checkpoint had been written yet");
  return FailedPrecondition("NON_FINITE", fmt::format("{} of step {} is {}; {}. Lower learning_rate (now {}) or add "
                                                      "warmup_steps",
                                                      what, step, value, kept, spec_.training.learning_rate))
      .WithMetadata("step", std::to_string(step));
}

}  // namespace sbora::trainer
