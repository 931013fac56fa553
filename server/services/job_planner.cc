#include "server/services/job_planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "common/ids.h"
#include "common/status_macros.h"
#include "core/adapter.h"
#include "core/estimate.h"
#include "core/proto/convert.h"
#include "core/proto/stable_bytes.h"
#include "core/r_index.h"
#include "server/services/convert.h"
#include "server/services/job_regions.h"
#include "server/services/requests.h"
#include "server/services/resource_calls.h"

namespace sbora::server {
namespace {

constexpr int kMaxLabels = 16;
constexpr size_t kMaxLabelKey = 63;
constexpr size_t kMaxLabelValue = 255;
constexpr size_t kMaxDisplayName = 128;

/// Everything a job refers to.
struct References {
  v1::Model model;
  core::ModelConfig config;
  core::BaseQuantization held_as;
  std::vector<v1::Dataset> datasets;  ///< one, or those of the mixture
  std::optional<v1::Dataset> validation;
};

struct PlannedSpec {
  core::JobSpec spec;  ///< full names, every default
  References references;
  RegionBase base;
  PlannedRegions regions;
  worker::v1::Task task;
};

Status CheckLabels(const v1::FineTuningJob& job) {
  Status bad = InvalidArgument("INVALID_JOB", "the job cannot be made; see the field violations");
  if (job.display_name().size() > kMaxDisplayName) bad = bad.WithViolation("fine_tuning_job.display_name", "at most 128 bytes");
  if (job.labels_size() > kMaxLabels) {
    bad = bad.WithViolation("fine_tuning_job.labels", fmt::format("{} labels exceed {}", job.labels_size(), kMaxLabels));
  }
  for (const auto& [key, value] : job.labels()) {
    if (key.empty() || key.size() > kMaxLabelKey) bad = bad.WithViolation("fine_tuning_job.labels", "keys have 1 to 63 bytes");
    if (value.size() > kMaxLabelValue) bad = bad.WithViolation("fine_tuning_job.labels", "values have at most 255 bytes");
  }
  return bad.violations().empty() ? OkStatus() : bad;
}

/// `name` becomes the full one.
Status ResolveDataset(const ServiceContext& services, const std::string& project, std::string_view field,
                      std::string& name, References& found) {
  SBORA_ASSIGN_OR_RETURN(const ResourceRow row,
                         FindResourceOrId(services, name, core::Collection::kDatasets, project, field));
  SBORA_ASSIGN_OR_RETURN(found.datasets.emplace_back(), DatasetOf(row));
  name = row.name;
  return OkStatus();
}

StatusOr<References> Resolve(const ServiceContext& services, const std::string& project, core::JobSpec& spec) {
  References found;
  SBORA_ASSIGN_OR_RETURN(const ResourceRow model, FindResourceOrId(services, spec.model, core::Collection::kModels, project, "spec.model"));
  SBORA_ASSIGN_OR_RETURN(found.model, ModelOf(model));
  spec.model = model.name;
  if (spec.datasets.empty()) {
    SBORA_RETURN_IF_ERROR(ResolveDataset(services, project, "spec.dataset", spec.dataset, found));
  }
  for (std::string& name : spec.datasets) {
    SBORA_RETURN_IF_ERROR(ResolveDataset(services, project, "spec.datasets", name, found));
    if (std::count(spec.datasets.begin(), spec.datasets.end(), name) == 1) continue;
    return InvalidArgument("INVALID_SPEC", fmt::format("spec.datasets names {} twice", name))
        .WithViolation("spec.datasets", fmt::format("names {} twice; raise its weight instead", name));
  }
  if (!spec.validation_dataset.empty()) {
    SBORA_ASSIGN_OR_RETURN(const ResourceRow validation, FindResourceOrId(services, spec.validation_dataset, core::Collection::kDatasets,
                                                                          project, "spec.validation_dataset"));
    SBORA_ASSIGN_OR_RETURN(found.validation, DatasetOf(validation));
    spec.validation_dataset = validation.name;
  }
  SBORA_ASSIGN_OR_RETURN(core::ModelForm form, ModelFormOf(found.model));
  found.config = std::move(form.config);
  found.held_as = form.held_as;
  return found;
}

/// The model's limits and the template, in one answer.
Status CheckAgainstModel(const References& references, core::JobSpec& spec) {
  Status bad = core::ResolveAgainstModel(references.config, spec);
  const bool chat =
      spec.data.prompt_template == core::PromptTemplate::kChat ||
      (spec.data.prompt_template == core::PromptTemplate::kAuto &&
       std::any_of(references.datasets.begin(), references.datasets.end(),
                   [](const v1::Dataset& dataset) { return dataset.format() == v1::DATASET_FORMAT_CHAT; }));
  if (!chat || references.model.has_chat_template()) return bad;
  if (bad.ok()) bad = InvalidArgument("INVALID_SPEC", "the spec does not fit the model; see the field violations");
  return bad.WithViolation("spec.data.prompt_template", fmt::format("{} has no chat template; choose PROMPT_TEMPLATE_PLAIN or _ALPACA",
                                                                     references.model.name()));
}

void AddInput(worker::v1::Task& task, const std::string& name, const google::protobuf::RepeatedPtrField<v1::File>& files) {
  worker::v1::InputGroup& group = *task.add_inputs();
  group.set_name(name);
  *group.mutable_files() = files;
}

void AddInput(worker::v1::Task& task, const std::string& name, const v1::File& file) {
  worker::v1::InputGroup& group = *task.add_inputs();
  group.set_name(name);
  *group.add_files() = file;
}

worker::v1::Task TrainTaskOf(const References& references, const core::JobSpec& spec, const core::RegionSet& regions) {
  worker::v1::Task task;
  AddInput(task, "model", references.model.files());
  const bool mixture = !spec.datasets.empty();
  for (size_t i = 0; i < references.datasets.size(); ++i) {
    AddInput(task, mixture ? fmt::format("dataset-{}", i) : "dataset", references.datasets[i].file());
  }
  if (references.validation) AddInput(task, "validation", references.validation->file());
  worker::v1::TrainTask& train = *task.mutable_train();
  *train.mutable_spec() = core::ToProto(spec);
  for (const core::Region& region : regions) {
    if (region.axis == core::RegionAxis::kWhole) continue;
    worker::v1::ModuleIndices& entry = *train.add_indices();
    entry.set_module(region.module);
    entry.mutable_indices()->Assign(region.indices.begin(), region.indices.end());
  }
  train.set_base_hash(references.model.base_hash());
  for (const v1::Dataset& dataset : references.datasets) {
    mixture ? train.add_mixture_formats(dataset.format()) : train.set_dataset_format(dataset.format());
  }
  if (references.validation) train.set_validation_format(references.validation->format());
  const auto peak = [&](bool cuda) { return core::EstimateMemory(references.config, spec, core::FullLoad(spec, cuda)).peak(); };
  train.set_estimated_cpu_bytes(peak(/*cuda=*/false));
  train.set_estimated_gpu_bytes(peak(/*cuda=*/true));
  return task;
}

/// Index vectors are nearly all of a task.
Status CheckTaskSize(const worker::v1::Task& task) {
  const size_t bytes = task.ByteSizeLong();
  if (bytes <= kMaxTaskBytes) return OkStatus();
  return InvalidArgument("INVALID_SPEC", fmt::format("the task for a worker has {} bytes, which is above {}", bytes, kMaxTaskBytes))
      .WithViolation("spec.adapter.rank", "lower the rank, or adapt fewer modules: each adapted module has an index vector of this length");
}

/// Field paths of errors start at "spec.".
StatusOr<PlannedSpec> PlanSpec(const ServiceContext& services, const std::string& project, const v1::FineTuningSpec& wanted) {
  PlannedSpec planned;
  SBORA_ASSIGN_OR_RETURN(planned.spec, core::ParseSpec(wanted));
  SBORA_ASSIGN_OR_RETURN(planned.references, Resolve(services, project, planned.spec));
  SBORA_RETURN_IF_ERROR(core::CheckHeldAs(planned.references.held_as, planned.spec));
  SBORA_RETURN_IF_ERROR(CheckAgainstModel(planned.references, planned.spec));
  planned.base = {project, planned.references.model.base_hash(), planned.references.config};
  SBORA_ASSIGN_OR_RETURN(planned.regions, PlanRegions(services, planned.base, planned.spec.adapter));
  planned.task = TrainTaskOf(planned.references, planned.spec, planned.regions.regions);
  SBORA_RETURN_IF_ERROR(CheckTaskSize(planned.task));
  return planned;
}

int64_t ToMillis(double seconds) { return static_cast<int64_t>(seconds * 1000.0); }

DeviceKind ToDevice(core::DeviceKind device) {
  switch (device) {
    case core::DeviceKind::kAuto: return DeviceKind::kAuto;
    case core::DeviceKind::kCpu: return DeviceKind::kCpu;
    case core::DeviceKind::kCuda: return DeviceKind::kCuda;
  }
  return DeviceKind::kAuto;
}

void SetLimits(const core::JobSpec& spec, SubmitRequest& submit) {
  submit.priority = static_cast<int32_t>(spec.priority);
  submit.ranks = static_cast<int32_t>(spec.ranks);
  submit.device = ToDevice(spec.device);
  submit.max_queue_ms = ToMillis(spec.max_queue_seconds);
  submit.max_attempt_ms = ToMillis(spec.max_attempt_seconds);
  submit.max_total_ms = ToMillis(spec.max_total_seconds);
}

}  // namespace

StatusOr<core::ModelForm> ModelFormOf(const v1::Model& model) {
  StatusOr<core::ModelForm> form = core::ParseModelForm(model.config_json());
  if (form.ok()) return form;
  // The model was stored so; nothing in this request can mend it.
  return FailedPrecondition(form.status().reason(), fmt::format("{}: {}; import it again", model.name(), form.status().message()))
      .WithMetadata("resource", model.name());
}

StatusOr<core::ModelConfig> ModelConfigOf(const v1::Model& model) {
  SBORA_ASSIGN_OR_RETURN(core::ModelForm form, ModelFormOf(model));
  return std::move(form.config);
}

StatusOr<PlannedJob> PlanFineTuning(const ServiceContext& services, const v1::CreateFineTuningJobRequest& request) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  SBORA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  if (!request.has_fine_tuning_job()) return Required("fine_tuning_job");
  SBORA_ASSIGN_OR_RETURN(const std::string id, ResourceIdOrNew(request.fine_tuning_job_id(), "fine_tuning_job_id"));
  SBORA_RETURN_IF_ERROR(CheckLabels(request.fine_tuning_job()));
  StatusOr<PlannedSpec> planned_spec = PlanSpec(services, project, request.fine_tuning_job().spec());
  if (!planned_spec.ok()) return PrefixFields(planned_spec.status(), "fine_tuning_job.");
  const auto& [spec, references, base, regions, task] = *planned_spec;

  PlannedJob planned;
  planned.job.set_name(FullName(project, core::Collection::kFineTuningJobs, id));
  planned.job.set_display_name(request.fine_tuning_job().display_name());
  *planned.job.mutable_labels() = request.fine_tuning_job().labels();
  *planned.job.mutable_spec() = core::ToProto(spec);
  planned.job.set_trainable_parameters(core::TrainableParameters(references.config, spec.adapter));
  if (request.validate_only()) {
    const auto capacity = CapacityFor(services, base, spec.adapter);
    if (!capacity.ok()) return PrefixFields(capacity.status(), "fine_tuning_job.");
    if (*capacity) *planned.job.mutable_region_capacity() = **capacity;
  }
  SubmitRequest& submit = planned.submit;
  submit.kind = WorkKind::kTrain;
  submit.project = project;
  submit.id = id;
  submit.name = planned.job.name();
  submit.uid = NewUuid7();
  SetLimits(spec, submit);
  submit.payload = {core::StableBytes(planned.job), core::StableBytes(task)};
  submit.uses = {spec.model};
  for (const v1::Dataset& dataset : references.datasets) submit.uses.push_back(dataset.name());
  const bool known = std::count(submit.uses.begin(), submit.uses.end(), spec.validation_dataset) > 0;
  if (references.validation && !known) submit.uses.push_back(spec.validation_dataset);
  submit.reserves = {FullName(project, core::Collection::kAdapters, id)};
  submit.extra = {ReservationOf(regions, base, submit.reserves.front(), submit.uid)};
  submit.request_id = request.request_id();
  submit.request_hash = RequestHash("CreateFineTuningJob", request);
  return planned;
}

}  // namespace sbora::server
