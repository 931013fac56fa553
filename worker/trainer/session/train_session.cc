#include "worker/trainer/session/train_session.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "common/file.h"
#include "common/process_memory.h"
#include "common/status_macros.h"
#include "worker/trainer/session/artifact.h"
#include "worker/trainer/session/base_model.h"
#include "worker/trainer/session/batch_source.h"
#include "worker/trainer/session/follower_observer.h"
#include "worker/trainer/session/gang.h"
#include "worker/trainer/session/run_hash.h"
#include "worker/trainer/session/torch_runtime.h"
#include "worker/trainer/session/train_loop.h"
#include "worker/trainer/session/trainee.h"

namespace sbora::trainer {
namespace {

// Two are kept while the next is written.
constexpr int64_t kCheckpointsOnDisk = 3;

struct Data {
  std::unique_ptr<BatchSource> train;
  std::unique_ptr<BatchSource> validation;  // null for none
};

StatusOr<Data> OpenData(const TrainRequest& request, int64_t vocab_size) {
  Data data;
  SBORA_ASSIGN_OR_RETURN(data.train, BatchSource::Open(request.token_cache, request.spec.training, vocab_size,
                                                       request.spec.dataset_weights, request.gang));
  if (!request.validation_cache.empty()) {
    core::TrainingSpec in_order = request.spec.training;
    in_order.epoch_samples = 0;
    SBORA_ASSIGN_OR_RETURN(data.validation, BatchSource::Open(request.validation_cache, in_order, vocab_size, {},
                                                              request.gang));
  }
  return data;
}

void ReportRejected(const LoadReport& report, TaskObserver& observer) {
  for (const auto& [folder, why] : report.rejected) {
    observer.OnEvent(EventLevel::kWarn, "CHECKPOINT_REJECTED",
                     fmt::format("checkpoint {} is not used: {}", folder.filename().string(), why.message()));
  }
}

std::string Describe(const ComputePlace& place) {
  const std::string ranks = place.ranks == 1 ? "" : fmt::format("{} ranks of ", place.ranks);
  return fmt::format("{}{} threads on {} in {}, {} form", ranks, place.threads, place.device, place.dtype, place.form);
}

std::string Describe(core::ComputeForm form, const AdapterSet& adapter) {
  const std::string method = fmt::format("{} with dropout {}", core::AdapterMethodName(adapter.method()), adapter.dropout());
  if (form == core::ComputeForm::kPlain) return fmt::format("plain: {}, its products beside those of the frozen weights", method);
  return fmt::format("merged: {}, written into the weights after each step; {} bytes of them are kept aside", method,
                     adapter.parameter_count() * static_cast<int64_t>(sizeof(float)));
}

/// Computes as the checkpoint was computed where that is possible, and says so where it is not.
ComputePlace TakePlace(const TrainRequest& request, const TrainState& state, const TorchPlan& plan, core::ComputeForm form,
                       TaskObserver& observer) {
  const ComputePlace& before = state.place;
  ComputePlace now = CurrentPlace(request.gang.world_size, plan.device, plan.dtype, form);
  if (before.threads == 0) return now;
  if (!request.device.threads_fixed && before.threads < now.threads) {
    UseThreads(before.threads);
    now = CurrentPlace(request.gang.world_size, plan.device, plan.dtype, form);
  }
  if (now == before) return now;
  observer.OnEvent(EventLevel::kWarn, "RESUMED_DIFFERENTLY",
                   fmt::format("the {} steps of the checkpoint were computed with {}, those from here on with {}: the last "
                               "bits of the adapter will differ from those of a run that nothing interrupted. For the same "
                               "bits use {}workers whose slots have {} cores, or set resources.threads",
                               state.step, Describe(before), Describe(now),
                               before.ranks == now.ranks ? "" : fmt::format("{} ranks, ", before.ranks), before.threads));
  return now;
}

Status RestoreNewest(const TrainRequest& request, const TorchPlan& plan, core::ComputeForm form, const CheckpointStore& store,
                     TrainLoop& loop, TaskObserver& observer) {
  const LoadReport report = store.LoadNewest(request.resume_from);
  ReportRejected(report, observer);
  for (const auto& [folder, why] : report.rejected) {
    // Not damage but a mistake, or an older program: going on from step 0 would hide it.
    if (why.reason() == "CHECKPOINT_OTHER_RUN" || why.code() == StatusCode::kUnimplemented) return why;
  }
  if (!report.checkpoint) return OkStatus();
  SBORA_RETURN_IF_ERROR(loop.Restore(store, *report.checkpoint));
  const ComputePlace place = TakePlace(request, report.checkpoint->state, plan, form, observer);
  observer.OnEvent(EventLevel::kInfo, "RESUMED", fmt::format("resumed from {} at step {} with {}",
                                                             report.checkpoint->folder.filename().string(),
                                                             report.checkpoint->state.step, Describe(place)));
  return OkStatus();
}

TrainOutcome OutcomeOf(const TrainLoop& loop, bool finished) {
  const TrainState& state = loop.state();
  TrainOutcome outcome{.stopped = !finished,
                       .steps = state.step,
                       .trained_tokens = state.trained_tokens,
                       .final_loss = state.last_loss,
                       .validation_loss = state.last_validation_loss,
                       .kept_step = state.step,
                       .seconds = state.seconds};
  if (loop.KeptBest()) {
    outcome.validation_loss = state.best_validation_loss;
    outcome.kept_step = state.best_step;
  }
  return outcome;
}

/// Weights that are trained themselves are float32 on every device.
DevicePlan DeviceFor(const TrainRequest& request) {
  DevicePlan device = request.device;
  const bool full = request.spec.adapter.method == core::AdapterMethod::kFull;
  if (full && device.dtype == core::ComputeDtype::kAuto) device.dtype = core::ComputeDtype::kFloat32;
  return device;
}

/// What rank 0 leaves. `outcome` gets what only the whole data tell.
Status WriteResult(const TrainRequest& request, const ArtifactPlan& artifact, const BatchSource& data, TrainLoop& loop,
                   TaskObserver& observer, TrainOutcome& outcome) {
  outcome.supervised_share = data.SupervisedShare();
  const bool full = artifact.config.method == core::AdapterMethod::kFull;
  observer.OnProgress({.step = outcome.steps,
                       .total_steps = loop.total_steps(),
                       .loss = outcome.final_loss,
                       .validation_loss = outcome.validation_loss.value_or(0),
                       .trained_tokens = outcome.trained_tokens,
                       .phase = full ? "writing checkpoint" : "writing adapter"});
  SBORA_ASSIGN_OR_RETURN(const auto parameters, loop.FinalParameters());
  return WriteArtifact(request.output_dir, artifact, parameters, [&observer] { observer.OnAlive(); });
}

StatusOr<TrainOutcome> Train(const TrainRequest& request, TaskObserver& observer) {
  const auto alive = [&observer] { observer.OnAlive(); };
  SBORA_ASSIGN_OR_RETURN(const TorchPlan plan, SetUpTorch(DeviceFor(request)));
  // The first to come and the last to go: when this rank fails, the others learn of it after all else is let go of.
  SBORA_ASSIGN_OR_RETURN(const auto group, JoinGang(request.gang, request.spec.ranks, plan.device));
  SBORA_ASSIGN_OR_RETURN(const auto model,
                         LoadBase({.model_dir = request.model_dir,
                                   .nf4_dir = request.nf4_dir,
                                   .base_hash = request.base_hash,
                                   .quantization = core::BaseQuantizationOf(request.spec)},
                                  plan, observer));
  SBORA_ASSIGN_OR_RETURN(const Data data, OpenData(request, model->config().vocab_size));
  const core::AdapterConfig config =
      core::AdapterConfigOf(request.spec, model->config(), request.spec.model, request.base_hash);
  SBORA_ASSIGN_OR_RETURN(const auto trainee, Trainee::Create(*model, request.spec.adapter, request.indices, config, alive));
  if (const AdapterSet* const adapter = trainee->adapter()) {
    observer.OnEvent(EventLevel::kInfo, "COMPUTE_FORM", Describe(trainee->form(), *adapter));
  }
  const auto reducer = MakeReducer(group.get(), *trainee, observer);
  const auto optimizer = MakeOptimizer(request.spec.training, *trainee);
  if (request.spec.training.paged_optimizer && model->device().is_cpu()) {
    observer.OnEvent(EventLevel::kInfo, "PAGED_OPTIMIZER_NO_EFFECT",
                     "paged_optimizer has no effect on the CPU: the optimizer's state is in the host's memory already");
  }
  const std::string run_hash = RunHash(request, data.train->key(), data.validation ? data.validation->key() : "");
  CheckpointStore store(request.checkpoint_dir, trainee->layout(), StateLayout(*optimizer), run_hash, alive);
  const ArtifactPlan artifact{.config = config, .layout = trainee->layout(), .base_dir = request.model_dir};
  if (request.gang.leads()) {
    SBORA_RETURN_IF_ERROR(RehearseArtifact(request.output_dir, artifact, HostBytes(trainee->trained().parameters()).floats(),
                                           request.checkpoint_dir,
                                           kCheckpointsOnDisk * store.PredictedBytes(request.spec.keep_best)));
  }
  TrainLoop loop(request.spec, {.model = model.get(),
                                .adapter = trainee->adapter(),
                                .trained = &trainee->trained(),
                                .optimizer = optimizer.get(),
                                .data = data.train.get(),
                                .validation = data.validation.get(),
                                .checkpoints = &store,
                                .observer = &observer,
                                .group = group.get(),
                                .reducer = reducer.get(),
                                .form = trainee->form()});
  SBORA_RETURN_IF_ERROR(RestoreNewest(request, plan, trainee->form(), store, loop, observer));
  if (group) SBORA_RETURN_IF_ERROR(CheckAgreement(*group, loop.state().step, run_hash));
  SBORA_ASSIGN_OR_RETURN(const bool finished, loop.Run());
  TrainOutcome outcome = OutcomeOf(loop, finished);
  if (finished && request.gang.leads()) {
    SBORA_RETURN_IF_ERROR(WriteResult(request, artifact, *data.train, loop, observer, outcome));
  }
  // Who leaves before rank 0 has written is taken for the end of the gang.
  if (group) SBORA_RETURN_IF_ERROR(group->Barrier());
  outcome.peak_memory_bytes = PeakResidentBytes();
  return outcome;
}

}  // namespace

StatusOr<TrainOutcome> RunTraining(const TrainRequest& request, TaskObserver& observer) {
  for (const auto& directory : {request.output_dir, request.checkpoint_dir}) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    if (error) return FromErrno(error.value(), "creating " + directory.string());
  }
  if (request.gang.leads()) return Guarded([&] { return Train(request, observer); });
  FollowerObserver follower(observer);
  return Guarded([&] { return Train(request, follower); });
}

}  // namespace sbora::trainer
