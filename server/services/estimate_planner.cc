#include "server/services/estimate_planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "common/status_macros.h"
#include "core/adapter.h"
#include "core/proto/convert.h"
#include "core/r_index.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/convert.h"
#include "server/services/job_planner.h"
#include "server/services/job_regions.h"
#include "server/services/requests.h"
#include "server/services/resource_calls.h"

namespace sbora::server {
namespace {

constexpr int kFinishedJobs = 50;  // the newest that are looked at

/// What an estimate is made for.
struct Subject {
  std::string project;
  std::string model_name;  ///< empty for a config of the request
  std::string base_hash;
  core::ModelConfig model;
  core::JobSpec spec;
  core::StepLoad load;
  bool full_length = true;      ///< tokens_per_sample is the cutoff
  bool all_supervised = true;
  std::optional<int64_t> samples;  ///< in an epoch, when the data are stored
};

/// A finished job's speed.
struct Calibration {
  std::string job;
  double flops_per_second = 0;
  int distance = 0;  ///< 0: same model and method; 1: same model; 2: another model of similar size
};

Status OutOfRange(std::string_view field, double value, std::string_view limit) {
  return InvalidArgument("INVALID_ESTIMATE", fmt::format("{}={} must be {}", field, value, limit))
      .WithViolation(field, fmt::format("must be {}", limit));
}

bool HasCudaWorker(const ServiceContext& services) {
  const auto workers = services.coordinator->ListWorkers();
  return std::any_of(workers.begin(), workers.end(), [](const WorkerView& view) { return view.cuda_slots > 0; });
}

Status ResolveModel(const ServiceContext& services, const v1::EstimateFineTuningJobRequest& request, Subject& subject) {
  if (!request.model_config_json().empty()) {
    StatusOr<core::ModelConfig> config = core::ParseHfConfig(request.model_config_json());
    if (!config.ok()) {
      const Status& bad = config.status();
      return bad.violations().empty() ? bad.WithViolation("model_config_json", bad.message()) : PrefixFields(bad, "model_config_json.");
    }
    subject.model = *std::move(config);
    return OkStatus();
  }
  SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResourceOrId(services, subject.spec.model, core::Collection::kModels,
                                                                 subject.project, "spec.model"));
  SBORA_ASSIGN_OR_RETURN(const v1::Model model, ModelOf(row));
  SBORA_ASSIGN_OR_RETURN(const core::ModelForm form, ModelFormOf(model));
  SBORA_RETURN_IF_ERROR(core::CheckHeldAs(form.held_as, subject.spec));
  subject.model = form.config;
  subject.model_name = model.name();
  subject.base_hash = model.base_hash();
  return OkStatus();
}

Status ResolveLoad(const v1::EstimateFineTuningJobRequest& request, bool cuda, Subject& subject) {
  const auto cutoff = static_cast<double>(subject.spec.data.cutoff_tokens);
  const double length = request.tokens_per_sample() == 0 ? cutoff : request.tokens_per_sample();
  if (!(length >= 1 && length <= cutoff)) {
    return OutOfRange("tokens_per_sample", length, fmt::format("0, or from 1 to cutoff_tokens={}", cutoff));
  }
  const double share = request.supervised_share() == 0 ? 1.0 : request.supervised_share();
  if (!(share > 0 && share <= 1)) return OutOfRange("supervised_share", share, "0, or above 0 and at most 1");
  subject.full_length = length == cutoff;
  subject.all_supervised = share == 1;
  subject.load = core::FullLoad(subject.spec, cuda);
  subject.load.tokens = static_cast<int64_t>(std::ceil(static_cast<double>(subject.load.samples) * length));
  subject.load.supervised_tokens = static_cast<int64_t>(std::ceil(static_cast<double>(subject.load.tokens) * share));
  return OkStatus();
}

/// Nothing when a data set is not stored: a job.yaml may name one that is not uploaded yet; then the number of steps stays
/// open.
StatusOr<std::optional<int64_t>> SamplesInEpoch(const ServiceContext& services, const Subject& subject) {
  const core::JobSpec& spec = subject.spec;
  if (spec.training.epoch_samples > 0) return std::optional<int64_t>(spec.training.epoch_samples);
  int64_t samples = -spec.data.validation_samples;
  const bool mixture = !spec.datasets.empty();
  for (const std::string& name : mixture ? spec.datasets : std::vector<std::string>{spec.dataset}) {
    const auto row = FindResourceOrId(services, name, core::Collection::kDatasets, subject.project,
                                      mixture ? "spec.datasets" : "spec.dataset");
    if (!row.ok() && row.status().code() == StatusCode::kNotFound) return std::optional<int64_t>();
    if (!row.ok()) return row.status();
    SBORA_ASSIGN_OR_RETURN(const v1::Dataset stored, DatasetOf(*row));
    samples += stored.validation_report().samples();
  }
  return std::optional<int64_t>(std::max<int64_t>(0, samples));
}

StatusOr<Subject> Resolve(const ServiceContext& services, const v1::EstimateFineTuningJobRequest& request) {
  Subject subject;
  SBORA_ASSIGN_OR_RETURN(subject.project, core::ParseProject(request.parent(), "parent"));
  // What an estimate does not need may be left out; the parser wants all of a job.
  v1::FineTuningSpec complete = request.spec();
  const bool has_dataset = !complete.dataset().empty() || complete.datasets_size() > 0;
  if (!has_dataset) complete.set_dataset("not-needed");
  if (!request.model_config_json().empty() && complete.model().empty()) complete.set_model("by-config");
  SBORA_ASSIGN_OR_RETURN(subject.spec, core::ParseSpec(complete));
  SBORA_RETURN_IF_ERROR(ResolveModel(services, request, subject));
  SBORA_RETURN_IF_ERROR(core::ResolveAgainstModel(subject.model, subject.spec));
  const bool cuda = subject.spec.device == core::DeviceKind::kCuda ||
                    (subject.spec.device == core::DeviceKind::kAuto && HasCudaWorker(services));
  SBORA_RETURN_IF_ERROR(ResolveLoad(request, cuda, subject));
  if (!has_dataset) return subject;
  SBORA_ASSIGN_OR_RETURN(subject.samples, SamplesInEpoch(services, subject));
  return subject;
}

/// The speed of one finished job, if it says enough to learn from.
std::optional<Calibration> MeasuredBy(const ServiceContext& services, const Work& work, const Subject& subject) {
  v1::FineTuningJob job;
  worker::v1::TaskResult result;
  if (!job.ParseFromString(work.payload->spec) || !result.ParseFromString(work.row.result)) return std::nullopt;
  const worker::v1::TrainResult& train = result.train();
  if (work.row.resolved_device.starts_with("cuda") != subject.load.cuda || train.seconds() <= 0 ||
      train.trained_tokens() <= 0 || train.supervised_share() <= 0 || train.steps() <= 0) {
    return std::nullopt;
  }
  auto spec = core::ParseSpec(job.spec());
  const auto row = services.store().GetResource(job.spec().model());
  if (!spec.ok() || !row.ok() || spec->quantization != subject.spec.quantization || spec->ranks != 1) return std::nullopt;
  const auto model = ModelOf(*row);
  if (!model.ok()) return std::nullopt;
  const auto config = ModelConfigOf(*model);
  if (!config.ok()) return std::nullopt;
  const double supervised = static_cast<double>(train.trained_tokens()) * train.supervised_share();
  const core::StepLoad whole{.cuda = subject.load.cuda,
                             .tokens = train.trained_tokens(),
                             .supervised_tokens = static_cast<int64_t>(supervised),
                             .samples = std::max<int64_t>(1, train.steps() * spec->training.batch_size),
                             .gradient_checkpointing = spec->training.gradient_checkpointing};
  const double flops = core::EstimateFlops(*config, spec->adapter, whole);
  const auto theirs = static_cast<double>(core::ParameterCount(*config));
  const auto ours = static_cast<double>(core::ParameterCount(subject.model));
  const bool same_model = *config == subject.model;
  if (!same_model && std::max(theirs / ours, ours / theirs) > core::kTimeSizeRatio) return std::nullopt;
  const int distance = !same_model ? 2 : spec->adapter.method == subject.spec.adapter.method ? 0 : 1;
  return Calibration{.job = work.row.name, .flops_per_second = flops / train.seconds(), .distance = distance};
}

/// The nearest of the newest finished jobs of the project.
StatusOr<std::optional<Calibration>> Calibrate(const ServiceContext& services, const Subject& subject) {
  WorkQuery query;
  query.project = subject.project;
  query.kinds = {WorkKind::kTrain};
  query.states = {core::JobState::kSucceeded};
  query.page_size = kFinishedJobs;
  SBORA_ASSIGN_OR_RETURN(const Page<Work> page, services.store().ListWork(query));
  std::optional<Calibration> best;
  for (const Work& work : page.rows) {
    const auto found = MeasuredBy(services, work, subject);
    if (found && (!best || found->distance < best->distance)) best = found;
  }
  return best;
}

void WriteTime(const Subject& subject, const Calibration& calibration, v1::EstimateFineTuningJobResponse& response) {
  const core::TrainingSpec& training = subject.spec.training;
  auto& time = *response.mutable_time();
  const auto batch = static_cast<double>(training.batch_size);
  const double micro_batches = batch / static_cast<double>(training.micro_batch_size * subject.spec.ranks);
  const double flops = core::EstimateFlops(subject.model, subject.spec.adapter, subject.load);
  const double micro_seconds = flops / calibration.flops_per_second;
  time.set_seconds_per_step(micro_seconds * micro_batches);
  time.set_tokens_per_second(static_cast<double>(subject.load.tokens * subject.spec.ranks) / micro_seconds);
  time.set_measured_by(calibration.job);
  time.set_flops_per_second(calibration.flops_per_second);
  time.set_error_percent(core::kTimeErrorPercent);
  if (training.max_steps > 0) {
    time.set_steps(training.max_steps);
    time.set_seconds(static_cast<double>(training.max_steps) * time.seconds_per_step());
  } else if (subject.samples) {
    const int64_t per_epoch = (*subject.samples + training.batch_size - 1) / training.batch_size;
    const double steps = std::ceil(training.epochs * static_cast<double>(per_epoch) - 1e-9);  // as data::BatchPlan
    time.set_steps(std::max<int64_t>(1, static_cast<int64_t>(steps)));
    time.set_seconds(static_cast<double>(*subject.samples) * training.epochs / batch * time.seconds_per_step());
  } else {
    response.add_notes("no total time: neither max_steps nor an uploaded data set says how many steps there are");
  }
}

void WriteMemory(const Subject& subject, v1::EstimateFineTuningJobResponse& response) {
  const core::MemoryEstimate memory = core::EstimateMemory(subject.model, subject.spec, subject.load);
  auto& out = *response.mutable_memory();
  out.set_peak_bytes(memory.peak());
  out.set_weights_bytes(memory.weights);
  out.set_adapter_bytes(memory.adapter);
  out.set_gradient_bytes(memory.gradients);
  out.set_optimizer_bytes(memory.optimizer);
  out.set_activation_bytes(memory.activations);
  out.set_scratch_bytes(memory.scratch);
  out.set_runtime_bytes(memory.runtime);
  out.set_loading_bytes(memory.loading);
  if (subject.spec.ranks > 1) {
    response.add_notes(fmt::format("the memory is that of one rank; all {} run on one worker, each with a base of its own",
                                   subject.spec.ranks));
  }
  const bool measured = !subject.load.cuda && core::UsesIndices(subject.spec.adapter.method) &&
                        subject.spec.quantization == core::Quantization::kNone;
  if (measured) {
    out.set_error_percent(core::kMemoryErrorPercent);
  } else {
    response.add_notes("the memory estimate has no error bound: only SBoRA on float32 bases on CPUs has been measured");
  }
}

void WriteCounts(const Subject& subject, v1::EstimateFineTuningJobResponse& response) {
  const core::AdapterSpec& adapter = subject.spec.adapter;
  const core::AdapterConfig config =
      core::AdapterConfigOf(subject.spec, subject.model, subject.model_name, subject.base_hash);
  const bool full = adapter.method == core::AdapterMethod::kFull;
  const std::vector<core::AdaptedModule> modules = core::AdaptedModules(subject.model, adapter.placement());
  response.set_trainable_parameters(core::TrainableParameters(subject.model, adapter));
  response.set_artifact_bytes(core::ArtifactBytes(config));
  *response.mutable_changed_weights() = ToProto(core::CountChangedWeights(subject.model, adapter.method, modules));
  for (const core::LinearModule module : adapter.target_modules) {
    const core::ModuleShape shape = core::LinearModuleShape(subject.model, module);
    std::vector<core::AdaptedModule> of_module;
    int64_t largest_rank = 0;
    for (const core::AdaptedModule& each : modules) {
      if (each.module != module) continue;
      of_module.push_back(each);
      largest_rank = std::max(largest_rank, each.rank);
    }
    const core::OperationCounts counts = core::LinearOperations(adapter.method, shape, largest_rank);
    auto& entry = *response.add_modules();
    const std::string_view name = core::LinearModuleName(module);
    entry.set_module(std::string(name.substr(0, name.find('_'))));
    entry.set_trainable_parameters(full ? shape.out_features * shape.in_features * subject.model.num_layers
                                        : core::TrainableParameters(adapter.method, of_module, adapter.frozen_a));
    entry.set_multiplications(counts.multiplications);
    entry.set_additions(counts.additions);
  }
}

}  // namespace

StatusOr<v1::EstimateFineTuningJobResponse> EstimateFineTuning(const ServiceContext& services,
                                                               const v1::EstimateFineTuningJobRequest& request) {
  SBORA_ASSIGN_OR_RETURN(const Subject subject, Resolve(services, request));
  v1::EstimateFineTuningJobResponse response;
  WriteCounts(subject, response);
  WriteMemory(subject, response);
  if (!subject.base_hash.empty()) {
    SBORA_ASSIGN_OR_RETURN(const auto capacity, CapacityFor(services, {subject.project, subject.base_hash, subject.model},
                                                            subject.spec.adapter));
    if (capacity) *response.mutable_region_capacity() = *capacity;
  }
  if (subject.full_length) {
    response.add_notes(fmt::format("samples are taken to have cutoff_tokens={} tokens each, the most there can be; give "
                                   "tokens_per_sample for a mean", subject.spec.data.cutoff_tokens));
  }
  if (subject.all_supervised) {
    response.add_notes("the loss is taken to count every token, the most there can be; give supervised_share for less");
  }
  SBORA_ASSIGN_OR_RETURN(const auto calibration, Calibrate(services, subject));
  if (calibration) {
    WriteTime(subject, *calibration, response);
  } else {
    response.add_notes(fmt::format("no time estimate: no worker has been measured; finish one job on {} with this base or one of "
                                   "similar size in this project", subject.load.cuda ? "cuda" : "cpu"));
  }
  return response;
}

}  // namespace sbora::server
