#include "server/services/evaluation_service.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/ids.h"
#include "common/status_macros.h"
#include "core/proto/convert.h"
#include "core/proto/stable_bytes.h"
#include "server/services/convert.h"
#include "server/services/evaluation_spec.h"
#include "server/services/pages.h"
#include "server/services/requests.h"
#include "server/services/resource_calls.h"
#include "server/services/rpc.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr std::string_view kKind = "EVALUATION_JOB";
constexpr std::chrono::milliseconds kAnswerMargin{300};

DeviceKind ToDevice(v1::Device device) {
  if (device == v1::DEVICE_CPU) return DeviceKind::kCpu;
  return device == v1::DEVICE_CUDA ? DeviceKind::kCuda : DeviceKind::kAuto;
}

StatusOr<Work> FindEvaluation(const ServiceContext& services, const std::string& name) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, core::Collection::kEvaluationJobs, "name"));
  StatusOr<Work> work = services.store().GetWork(parsed.ToString());
  if (work.ok()) return work;
  return NameMissing(work.status(), kKind, parsed.ToString());
}

/// Writes down how the base is held. `Spec` has adapter, base_quantization and double_quantization.
template <typename Subject, typename Spec>
Status FillBaseForm(const Subject& subject, const std::string& field_prefix, Spec& spec) {
  const v1::Adapter* const adapter = spec.adapter().empty() ? nullptr : &subject.adapter;
  std::optional<bool> double_quantization;
  if (spec.has_double_quantization()) double_quantization = spec.double_quantization();
  SBORA_ASSIGN_OR_RETURN(const BaseForm form, ResolveBaseForm(spec.base_quantization(), double_quantization, subject.model,
                                                              adapter, field_prefix));
  spec.set_base_quantization(form.quantization);
  if (form.quantization == v1::QUANTIZATION_NF4) spec.set_double_quantization(form.double_quantization);
  return OkStatus();
}

}  // namespace

StatusOr<EvaluationServiceImpl::Subject> EvaluationServiceImpl::ResolveSubject(const std::string& project, const std::string& model,
                                                                               const std::string& adapter,
                                                                               std::string_view field_prefix,
                                                                               worker::v1::Task& task) const {
  Subject subject;
  std::string model_name = model;
  v1::Adapter& found = subject.adapter;
  if (!adapter.empty()) {
    SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResourceOrId(services_, adapter, core::Collection::kAdapters, project,
                                                                   fmt::format("{}adapter", field_prefix)));
    SBORA_ASSIGN_OR_RETURN(found, AdapterOf(row));
    subject.uses.push_back(row.name);
    if (model_name.empty()) model_name = found.model();
  }
  SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResourceOrId(services_, model_name, core::Collection::kModels, project,
                                                                 fmt::format("{}model", field_prefix)));
  SBORA_ASSIGN_OR_RETURN(subject.model, ModelOf(row));
  subject.uses.push_back(row.name);
  if (!adapter.empty() && found.base_hash() != subject.model.base_hash()) {
    return BaseMismatch(adapter, found, subject.model);
  }
  worker::v1::InputGroup& base = *task.add_inputs();
  base.set_name("model");
  *base.mutable_files() = subject.model.files();
  if (!adapter.empty()) {
    worker::v1::InputGroup& group = *task.add_inputs();
    group.set_name("adapter");
    *group.mutable_files() = found.files();
  }
  return subject;
}

StatusOr<v1::Dataset> EvaluationServiceImpl::AddDataset(const std::string& project, std::string_view field, const char* group_name,
                                                        std::string& name, Subject& subject, worker::v1::Task& task) const {
  SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResourceOrId(services_, name, core::Collection::kDatasets, project,
                                                                 fmt::format("evaluation_job.spec.{}", field)));
  SBORA_ASSIGN_OR_RETURN(v1::Dataset dataset, DatasetOf(row));
  worker::v1::InputGroup& group = *task.add_inputs();
  group.set_name(group_name);
  *group.add_files() = dataset.file();
  subject.uses.push_back(row.name);
  name = row.name;
  return dataset;
}

Status EvaluationServiceImpl::CheckData(const v1::EvaluationSpec& spec, const v1::Dataset& dataset, const v1::Dataset& few_shots) const {
  SBORA_ASSIGN_OR_RETURN(const TempDirectory temp, TempDirectory::Create(services_.temp_directory, "evaluation"));
  const auto fetch = [&](const v1::Dataset& from, const std::filesystem::path& to) -> Status {
    SBORA_ASSIGN_OR_RETURN(const ObjectRow object, FindObject(services_, from.file().object()));
    return services_.objects->GetToFile(object.key, to).status();
  };
  EvaluationFiles files{.dataset = temp.path() / "dataset", .format = dataset.format()};
  SBORA_RETURN_IF_ERROR(fetch(dataset, files.dataset));
  if (!spec.few_shot_dataset().empty()) {
    files.few_shots = temp.path() / "few_shots";
    files.few_shot_format = few_shots.format();
    SBORA_RETURN_IF_ERROR(fetch(few_shots, files.few_shots));
  }
  return CheckEvaluationData(spec, files);
}

Status EvaluationServiceImpl::Create(const v1::CreateEvaluationJobRequest& request, v1::EvaluationJob& job) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  SBORA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  const std::string hash = RequestHash("CreateEvaluationJob", request);
  if (!request.validate_only()) {
    SBORA_ASSIGN_OR_RETURN(const auto earlier, FindRepeat(services_, project, request.request_id(), hash));
    if (earlier) {
      SBORA_ASSIGN_OR_RETURN(job, EvaluationOf(*earlier, services_.coordinator->Progress(earlier->row.uid)));
      return OkStatus();
    }
  }
  if (!request.has_evaluation_job()) return Required("evaluation_job");
  SBORA_ASSIGN_OR_RETURN(const std::string id, ResourceIdOrNew(request.evaluation_job_id(), "evaluation_job_id"));
  v1::EvaluationSpec spec = request.evaluation_job().spec();
  SBORA_RETURN_IF_ERROR(CheckEvaluationSpec(spec));
  worker::v1::Task task;
  SBORA_ASSIGN_OR_RETURN(Subject subject, ResolveSubject(project, spec.model(), spec.adapter(), "evaluation_job.spec.", task));
  worker::v1::EvaluateTask& evaluate = *task.mutable_evaluate();
  SBORA_ASSIGN_OR_RETURN(const v1::Dataset dataset, AddDataset(project, "dataset", "dataset", *spec.mutable_dataset(), subject, task));
  evaluate.set_dataset_format(dataset.format());
  v1::Dataset few_shots;
  if (!spec.few_shot_dataset().empty()) {
    SBORA_ASSIGN_OR_RETURN(few_shots, AddDataset(project, "few_shot_dataset", "few_shots", *spec.mutable_few_shot_dataset(), subject, task));
    evaluate.set_few_shot_format(few_shots.format());
  }
  SBORA_RETURN_IF_ERROR(FillBaseForm(subject, "evaluation_job.spec.", spec));
  spec.set_model(subject.model.name());
  if (!spec.adapter().empty()) spec.set_adapter(subject.uses.front());
  FillEvaluationDefaults(spec);
  SBORA_RETURN_IF_ERROR(CheckData(spec, dataset, few_shots));
  *evaluate.mutable_spec() = spec;
  evaluate.set_base_hash(subject.model.base_hash());

  v1::EvaluationJob stored;
  stored.set_name(FullName(project, core::Collection::kEvaluationJobs, id));
  *stored.mutable_spec() = spec;
  if (request.validate_only()) {
    SBORA_ASSIGN_OR_RETURN(const bool taken, services_.store().IsNameTaken(stored.name()));
    if (taken) return NameTaken(stored.name());
    job = stored;
    return OkStatus();
  }
  SubmitRequest submit;
  submit.kind = WorkKind::kEvaluate;
  submit.project = project;
  submit.id = id;
  submit.name = stored.name();
  submit.uid = NewUuid7();
  submit.validated = true;
  submit.device = ToDevice(spec.device());
  submit.payload = {core::StableBytes(stored), core::StableBytes(task)};
  submit.uses = std::move(subject.uses);
  submit.request_id = request.request_id();
  submit.request_hash = hash;
  SBORA_ASSIGN_OR_RETURN(const Work work, services_.coordinator->Submit(std::move(submit)));
  SBORA_ASSIGN_OR_RETURN(job, EvaluationOf(work, services_.coordinator->Progress(work.row.uid)));
  return OkStatus();
}

Status EvaluationServiceImpl::List(const v1::ListEvaluationJobsRequest& request, v1::ListEvaluationJobsResponse& response) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  const std::string query = "evaluations " + project;
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(request.page_size(), request.page_token(), query));
  WorkQuery work_query;
  work_query.project = project;
  work_query.kinds = {WorkKind::kEvaluate};
  SBORA_ASSIGN_OR_RETURN(const std::string next, FillWorkPage(services_, page, std::move(work_query), EvaluationOf, *response.mutable_evaluation_jobs()));
  response.set_next_page_token(PageToken(next, query));
  return OkStatus();
}

StatusOr<Work> EvaluationServiceImpl::FinishGenerate(const Work& work, const Call& call) {
  const StatusOr<Work> ended = WaitForWork(services_, call, work.row.name, call.deadline - kAnswerMargin);
  if (ended.ok() && core::IsTerminal(ended->row.state)) {
    services_.coordinator->Delete(work.row.name, 0).IgnoreError("the sweep removes it");
    return ended;
  }
  const StatusOr<Work> cancelled = services_.coordinator->Cancel(work.row.name, 0);
  // A queued one is gone now; a running one ends within seconds and the sweep removes it.
  if (cancelled.ok() && core::IsTerminal(cancelled->row.state)) {
    services_.coordinator->Delete(work.row.name, 0).IgnoreError("the sweep removes it");
  }
  if (!ended.ok()) return ended.status();
  const bool queued = ended->row.state == core::JobState::kQueued;
  return DeadlineExceeded("GENERATION_TIMEOUT", queued ? "no worker took the request before the deadline; is one running and free?"
                                                       : "the text was not ready before the deadline; ask for fewer tokens or wait longer");
}

Status EvaluationServiceImpl::RunGenerate(const v1::GenerateRequest& request, const Call& call, v1::GenerateResponse& response) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  SBORA_RETURN_IF_ERROR(CheckGenerateRequest(request));
  worker::v1::Task task;
  SBORA_ASSIGN_OR_RETURN(Subject subject, ResolveSubject(project, request.model(), request.adapter(), "", task));
  v1::GenerateRequest complete = request;
  SBORA_RETURN_IF_ERROR(FillBaseForm(subject, "", complete));
  complete.set_model(subject.model.name());
  if (!request.adapter().empty()) complete.set_adapter(subject.uses.front());
  FillGenerationDefaults(*complete.mutable_generation());
  if (complete.prompt_template() == v1::PROMPT_TEMPLATE_UNSPECIFIED) complete.set_prompt_template(v1::PROMPT_TEMPLATE_PLAIN);
  if (complete.prompt_template() == v1::PROMPT_TEMPLATE_CHAT && !subject.model.has_chat_template()) {
    return InvalidArgument("NO_CHAT_TEMPLATE", fmt::format("{} has no chat template", subject.model.name()))
        .WithViolation("prompt_template", "must be PROMPT_TEMPLATE_PLAIN for this model");
  }
  *task.mutable_generate()->mutable_request() = complete;
  task.mutable_generate()->set_base_hash(subject.model.base_hash());

  SubmitRequest submit;
  submit.kind = WorkKind::kGenerate;
  submit.project = project;
  submit.uid = NewUuid7();
  submit.id = submit.uid;
  submit.name = OperationName(project, submit.uid);
  submit.validated = true;
  submit.priority = 100;  // somebody waits for it
  submit.payload = {core::StableBytes(complete), core::StableBytes(task)};
  submit.uses = std::move(subject.uses);
  SBORA_ASSIGN_OR_RETURN(const Work work, services_.coordinator->Submit(std::move(submit)));
  SBORA_ASSIGN_OR_RETURN(const Work ended, FinishGenerate(work, call));
  if (ended.row.state == core::JobState::kSucceeded) {
    worker::v1::TaskResult result;
    SBORA_RETURN_IF_ERROR(ParseStored(ended.row.result, "generation", result));
    response = result.generate();
    return OkStatus();
  }
  const Failure& failure = ended.row.failure;
  const bool told = failure.code > 0 && failure.code <= 16;
  return Status(told ? static_cast<StatusCode>(failure.code) : StatusCode::kInternal,
                failure.reason.empty() ? "GENERATION_FAILED" : failure.reason,
                failure.message.empty() ? "the generation ended without text" : failure.message);
}

grpc::Status EvaluationServiceImpl::CreateEvaluationJob(grpc::ServerContext* context, const v1::CreateEvaluationJobRequest* request,
                                                        v1::EvaluationJob* job) {
  return Unary(services_, *context, "sbora.v1.EvaluationService/CreateEvaluationJob", [&](const Call&) { return Create(*request, *job); });
}

grpc::Status EvaluationServiceImpl::GetEvaluationJob(grpc::ServerContext* context, const v1::GetEvaluationJobRequest* request,
                                                     v1::EvaluationJob* job) {
  return Unary(services_, *context, "sbora.v1.EvaluationService/GetEvaluationJob", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const Work work, FindEvaluation(services_, request->name()));
    SBORA_ASSIGN_OR_RETURN(*job, EvaluationOf(work, services_.coordinator->Progress(work.row.uid)));
    return OkStatus();
  });
}

grpc::Status EvaluationServiceImpl::ListEvaluationJobs(grpc::ServerContext* context, const v1::ListEvaluationJobsRequest* request,
                                                       v1::ListEvaluationJobsResponse* response) {
  return Unary(services_, *context, "sbora.v1.EvaluationService/ListEvaluationJobs", [&](const Call&) { return List(*request, *response); });
}

grpc::Status EvaluationServiceImpl::CancelEvaluationJob(grpc::ServerContext* context, const v1::CancelEvaluationJobRequest* request,
                                                        v1::EvaluationJob* job) {
  return Unary(services_, *context, "sbora.v1.EvaluationService/CancelEvaluationJob", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const core::ResourceName name, core::ParseName(request->name(), core::Collection::kEvaluationJobs, "name"));
    SBORA_ASSIGN_OR_RETURN(const int64_t tag, TagOf(request->etag()));
    const StatusOr<Work> work = services_.coordinator->Cancel(name.ToString(), tag);
    if (!work.ok()) return NameMissing(work.status(), kKind, name.ToString());
    SBORA_ASSIGN_OR_RETURN(*job, EvaluationOf(*work, services_.coordinator->Progress(work->row.uid)));
    return OkStatus();
  });
}

grpc::Status EvaluationServiceImpl::DeleteEvaluationJob(grpc::ServerContext* context, const v1::DeleteEvaluationJobRequest* request,
                                                        google::protobuf::Empty*) {
  return Unary(services_, *context, "sbora.v1.EvaluationService/DeleteEvaluationJob", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const core::ResourceName name, core::ParseName(request->name(), core::Collection::kEvaluationJobs, "name"));
    SBORA_ASSIGN_OR_RETURN(const int64_t tag, TagOf(request->etag()));
    return NameMissing(services_.coordinator->Delete(name.ToString(), tag), kKind, name.ToString());
  });
}

grpc::Status EvaluationServiceImpl::Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                                             v1::GenerateResponse* response) {
  return Unary(services_, *context, "sbora.v1.EvaluationService/Generate",
               [&](const Call& call) { return RunGenerate(*request, call, *response); });
}

}  // namespace sbora::server
