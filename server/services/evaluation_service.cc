#include "server/services/evaluation_service.h"

#include <fmt/format.h>

#include <numeric>

#include "common/ids.h"
#include "common/status_macros.h"
#include "core/proto/convert.h"
#include "server/services/convert.h"
#include "server/services/pages.h"
#include "server/services/requests.h"
#include "server/services/resource_calls.h"
#include "server/services/rpc.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr std::string_view kKind = "EVALUATION_JOB";
constexpr int kMaxPrompts = 64;
constexpr size_t kMaxPromptBytes = 64 * 1024;
constexpr size_t kMaxPromptsBytes = 2 << 20;  ///< together: they go to a worker in one message
constexpr std::chrono::milliseconds kAnswerMargin{300};

Status CheckGeneration(const v1::GenerationSpec& spec, const std::string& prefix, Status bad) {
  const auto range = [&](bool good, const char* field, const std::string& rule) {
    if (!good) bad = bad.WithViolation(prefix + field, rule);
  };
  range(!spec.has_max_new_tokens() || (spec.max_new_tokens() >= 1 && spec.max_new_tokens() <= 4096), "max_new_tokens", "must be 1 to 4096");
  range(!spec.has_temperature() || (spec.temperature() >= 0 && spec.temperature() <= 100), "temperature", "must be 0 (greedy) to 100");
  range(!spec.has_top_k() || spec.top_k() >= 0, "top_k", "must be 0 (no limit) or more");
  range(!spec.has_top_p() || (spec.top_p() > 0 && spec.top_p() <= 1), "top_p", "must be above 0 and at most 1");
  range(!spec.has_batch_size() || (spec.batch_size() >= 1 && spec.batch_size() <= 256), "batch_size", "must be 1 to 256");
  return bad;
}

void FillDefaults(v1::GenerationSpec& spec) {
  if (!spec.has_max_new_tokens()) spec.set_max_new_tokens(64);
  if (!spec.has_temperature()) spec.set_temperature(0);
  if (!spec.has_top_k()) spec.set_top_k(0);
  if (!spec.has_top_p()) spec.set_top_p(1);
  if (!spec.has_seed()) spec.set_seed(42);
  if (!spec.has_batch_size()) spec.set_batch_size(8);
}

Status CheckSubject(const std::string& model, const std::string& adapter, const std::string& prefix, Status bad) {
  if (model.empty() && adapter.empty()) bad = bad.WithViolation(prefix + "model", "name a model, or an adapter in `adapter`");
  return bad;
}

Status CheckSpec(const v1::EvaluationSpec& spec) {
  const std::string prefix = "evaluation_job.spec.";
  Status bad = InvalidArgument("INVALID_SPEC", "the evaluation cannot be made; see the field violations");
  bad = CheckSubject(spec.model(), spec.adapter(), prefix, bad);
  if (spec.dataset().empty()) bad = bad.WithViolation(prefix + "dataset", "must be set");
  if (!core::ParsePromptTemplate(spec.prompt_template()).ok()) bad = bad.WithViolation(prefix + "prompt_template", "must be one of PromptTemplate");
  if (!core::ParseDevice(spec.device()).ok()) bad = bad.WithViolation(prefix + "device", "must be one of Device");
  if (spec.max_samples() < 0) bad = bad.WithViolation(prefix + "max_samples", "must be 0 (all) or more");
  if (spec.threads() < 0 || spec.threads() > 1024) bad = bad.WithViolation(prefix + "threads", "must be 0 to 1024");
  bad = CheckGeneration(spec.generation(), prefix + "generation.", bad);
  return bad.violations().empty() ? OkStatus() : bad;
}

Status CheckGenerate(const v1::GenerateRequest& request) {
  Status bad = InvalidArgument("INVALID_REQUEST", "the text cannot be generated; see the field violations");
  bad = CheckSubject(request.model(), request.adapter(), "", bad);
  if (request.prompts().empty() || request.prompts_size() > kMaxPrompts) {
    bad = bad.WithViolation("prompts", fmt::format("{} prompts; 1 to {} are taken", request.prompts_size(), kMaxPrompts));
  }
  for (int i = 0; i < request.prompts_size() && i < kMaxPrompts; ++i) {
    if (request.prompts(i).size() <= kMaxPromptBytes) continue;
    bad = bad.WithViolation(fmt::format("prompts[{}]", i), fmt::format("{} bytes exceed {}", request.prompts(i).size(), kMaxPromptBytes));
  }
  const size_t together = std::accumulate(request.prompts().begin(), request.prompts().end(), size_t{0},
                                          [](size_t sum, const std::string& prompt) { return sum + prompt.size(); });
  if (together > kMaxPromptsBytes) bad = bad.WithViolation("prompts", fmt::format("{} bytes together exceed {}", together, kMaxPromptsBytes));
  if (!core::ParsePromptTemplate(request.prompt_template()).ok()) bad = bad.WithViolation("prompt_template", "must be one of PromptTemplate");
  bad = CheckGeneration(request.generation(), "generation.", bad);
  return bad.violations().empty() ? OkStatus() : bad;
}

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

}  // namespace

StatusOr<EvaluationServiceImpl::Subject> EvaluationServiceImpl::ResolveSubject(const std::string& project, const std::string& model,
                                                                               const std::string& adapter,
                                                                               std::string_view field_prefix,
                                                                               worker::v1::Task& task) const {
  Subject subject;
  std::string model_name = model;
  v1::Adapter found;
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
  SBORA_RETURN_IF_ERROR(CheckSpec(spec));
  worker::v1::Task task;
  SBORA_ASSIGN_OR_RETURN(Subject subject, ResolveSubject(project, spec.model(), spec.adapter(), "evaluation_job.spec.", task));
  SBORA_ASSIGN_OR_RETURN(const ResourceRow dataset_row, FindResourceOrId(services_, spec.dataset(), core::Collection::kDatasets, project,
                                                                         "evaluation_job.spec.dataset"));
  SBORA_ASSIGN_OR_RETURN(const v1::Dataset dataset, DatasetOf(dataset_row));
  worker::v1::InputGroup& group = *task.add_inputs();
  group.set_name("dataset");
  *group.add_files() = dataset.file();

  spec.set_model(subject.model.name());
  if (!spec.adapter().empty()) spec.set_adapter(subject.uses.front());
  spec.set_dataset(dataset_row.name);
  if (spec.prompt_template() == v1::PROMPT_TEMPLATE_UNSPECIFIED) spec.set_prompt_template(v1::PROMPT_TEMPLATE_AUTO);
  if (spec.device() == v1::DEVICE_UNSPECIFIED) spec.set_device(v1::DEVICE_AUTO);
  if (!spec.has_exact_match()) spec.set_exact_match(true);
  if (!spec.has_perplexity()) spec.set_perplexity(true);
  FillDefaults(*spec.mutable_generation());
  worker::v1::EvaluateTask& evaluate = *task.mutable_evaluate();
  *evaluate.mutable_spec() = spec;
  evaluate.set_base_hash(subject.model.base_hash());
  evaluate.set_dataset_format(dataset.format());

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
  submit.payload = {Serialize(stored), Serialize(task)};
  submit.uses = std::move(subject.uses);
  submit.uses.push_back(dataset_row.name);
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
  SBORA_RETURN_IF_ERROR(CheckGenerate(request));
  worker::v1::Task task;
  SBORA_ASSIGN_OR_RETURN(Subject subject, ResolveSubject(project, request.model(), request.adapter(), "", task));
  v1::GenerateRequest complete = request;
  complete.set_model(subject.model.name());
  if (!request.adapter().empty()) complete.set_adapter(subject.uses.front());
  FillDefaults(*complete.mutable_generation());
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
  submit.payload = {Serialize(complete), Serialize(task)};
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
