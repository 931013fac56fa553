#include "client/sbora_client.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "client/client_call.h"
#include "common/ids.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

constexpr int64_t kMaxPageSize = 1000;

Status Stopped() { return Cancelled("STOPPED", "stopped waiting"); }

template <typename Request>
void FillRequestId(Request& request) {
  if (request.request_id().empty()) request.set_request_id(NewUuid4());
}

}  // namespace

bool IsTerminal(v1::FineTuningJob::State state) {
  return state == v1::FineTuningJob::STATE_SUCCEEDED || state == v1::FineTuningJob::STATE_FAILED ||
         state == v1::FineTuningJob::STATE_CANCELLED;
}

bool IsTerminal(v1::EvaluationJob::State state) {
  return state == v1::EvaluationJob::STATE_SUCCEEDED || state == v1::EvaluationJob::STATE_FAILED ||
         state == v1::EvaluationJob::STATE_CANCELLED;
}

StatusOr<std::unique_ptr<Client>> Client::Connect(ClientOptions options) {
  SBORA_ASSIGN_OR_RETURN(auto channel, CreateChannel(options.server, options.channel));
  return std::make_unique<Client>(std::move(channel), std::move(options));
}

Client::Client(std::shared_ptr<grpc::Channel> channel, ClientOptions options)
    : options_(std::move(options)),
      channel_(std::move(channel)),
      models_(v1::ModelService::NewStub(channel_)),
      datasets_(v1::DatasetService::NewStub(channel_)),
      jobs_(v1::FineTuningService::NewStub(channel_)),
      adapters_(v1::AdapterService::NewStub(channel_)),
      evaluations_(v1::EvaluationService::NewStub(channel_)),
      admin_(v1::AdminService::NewStub(channel_)),
      transfers_(v1::TransferService::NewStub(channel_)),
      operations_(google::longrunning::Operations::NewStub(channel_)) {}

std::string Client::Parent() const { return "projects/" + options_.project; }

std::string Client::ResourceName(std::string_view collection, std::string_view id) const {
  if (id.find('/') != std::string_view::npos) return std::string(id);
  return fmt::format("{}/{}/{}", Parent(), collection, id);
}

template <typename Stub, typename Request, typename Response>
StatusOr<Response> Client::ListPages(const std::unique_ptr<Stub>& stub,
                                     grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                     Request request, const ListOptions& options) {
  Response all;
  const auto* items = Response::descriptor()->FindFieldByNumber(1);  // AIP-132: the results are field 1
  while (true) {
    const int64_t have = Response::GetReflection()->FieldSize(all, items);
    const int64_t left = options.limit == 0 ? kMaxPageSize : options.limit - have;
    request.set_page_size(static_cast<int32_t>(std::min(left, kMaxPageSize)));
    SBORA_ASSIGN_OR_RETURN(const Response page, Call(stub, method, request, Repeat::kSafe));
    all.MergeFrom(page);
    all.set_next_page_token(page.next_page_token());
    if (page.next_page_token().empty()) return all;
    if (options.limit != 0 && Response::GetReflection()->FieldSize(all, items) >= options.limit) return all;
    request.set_page_token(page.next_page_token());
  }
}

template <typename T>
StatusOr<T> Client::Poll(T value, const std::function<StatusOr<T>()>& get, const std::function<bool(const T&)>& done,
                         const std::stop_token& stop, const std::function<void(const T&)>& on_change) {
  const Clock& clock = SystemClock();
  std::chrono::milliseconds wait(
      std::min<std::chrono::milliseconds>(std::chrono::milliseconds(100), options_.poll_interval));
  MonotonicTime answered = clock.Now();
  while (true) {
    if (on_change) on_change(value);
    if (done(value)) return value;
    if (!clock.SleepUntil(clock.Now() + wait, stop)) return Stopped();
    wait = std::min(options_.poll_interval, wait * 3 / 2);
    StatusOr<T> next = get();
    if (next.ok()) {
      value = *std::move(next);
      answered = clock.Now();
    } else if (!IsRetryable(next.status().code()) || clock.Now() - answered > options_.reconnect_for) {
      return next.status();
    }
  }
}

StatusOr<google::longrunning::Operation> Client::ImportModel(v1::ImportModelRequest request) {
  if (request.parent().empty()) request.set_parent(Parent());
  FillRequestId(request);
  return Call(models_, &v1::ModelService::Stub::ImportModel, request, Repeat::kSafe);
}

StatusOr<v1::Model> Client::GetModel(const std::string& name) {
  v1::GetModelRequest request;
  request.set_name(name);
  return Call(models_, &v1::ModelService::Stub::GetModel, request, Repeat::kSafe);
}

StatusOr<v1::ListModelsResponse> Client::ListModels(const ListOptions& options) {
  v1::ListModelsRequest request;
  request.set_parent(Parent());
  return ListPages(models_, &v1::ModelService::Stub::ListModels, request, options);
}

Status Client::DeleteModel(const std::string& name) {
  v1::DeleteModelRequest request;
  request.set_name(name);
  return Call(models_, &v1::ModelService::Stub::DeleteModel, request, Repeat::kOnce).status();
}

StatusOr<v1::Dataset> Client::CreateDataset(v1::CreateDatasetRequest request) {
  if (request.parent().empty()) request.set_parent(Parent());
  FillRequestId(request);
  return Call(datasets_, &v1::DatasetService::Stub::CreateDataset, request, Repeat::kSafeAndLong);
}

StatusOr<v1::Dataset> Client::GetDataset(const std::string& name) {
  v1::GetDatasetRequest request;
  request.set_name(name);
  return Call(datasets_, &v1::DatasetService::Stub::GetDataset, request, Repeat::kSafe);
}

StatusOr<v1::ListDatasetsResponse> Client::ListDatasets(const ListOptions& options) {
  v1::ListDatasetsRequest request;
  request.set_parent(Parent());
  return ListPages(datasets_, &v1::DatasetService::Stub::ListDatasets, request, options);
}

Status Client::DeleteDataset(const std::string& name) {
  v1::DeleteDatasetRequest request;
  request.set_name(name);
  return Call(datasets_, &v1::DatasetService::Stub::DeleteDataset, request, Repeat::kOnce).status();
}

StatusOr<v1::FineTuningJob> Client::Submit(v1::CreateFineTuningJobRequest request) {
  if (request.parent().empty()) request.set_parent(Parent());
  FillRequestId(request);
  return Call(jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, request,
              request.validate_only() ? Repeat::kSafeAndLong : Repeat::kSafe);
}

StatusOr<v1::FineTuningJob> Client::GetJob(const std::string& name) {
  v1::GetFineTuningJobRequest request;
  request.set_name(name);
  return Call(jobs_, &v1::FineTuningService::Stub::GetFineTuningJob, request, Repeat::kSafe);
}

StatusOr<v1::ListFineTuningJobsResponse> Client::ListJobs(const ListOptions& options, const std::string& filter) {
  v1::ListFineTuningJobsRequest request;
  request.set_parent(Parent());
  request.set_filter(filter);
  return ListPages(jobs_, &v1::FineTuningService::Stub::ListFineTuningJobs, request, options);
}

StatusOr<v1::ListFineTuningEventsResponse> Client::ListEvents(const std::string& job, const ListOptions& options) {
  v1::ListFineTuningEventsRequest request;
  request.set_parent(job);
  return ListPages(jobs_, &v1::FineTuningService::Stub::ListFineTuningEvents, request, options);
}

StatusOr<v1::ListFineTuningMetricsResponse> Client::ListMetrics(const std::string& job, const ListOptions& options) {
  v1::ListFineTuningMetricsRequest request;
  request.set_parent(job);
  return ListPages(jobs_, &v1::FineTuningService::Stub::ListFineTuningMetrics, request, options);
}

StatusOr<v1::ListFineTuningCheckpointsResponse> Client::ListCheckpoints(const std::string& job,
                                                                        const ListOptions& options) {
  v1::ListFineTuningCheckpointsRequest request;
  request.set_parent(job);
  return ListPages(jobs_, &v1::FineTuningService::Stub::ListFineTuningCheckpoints, request, options);
}

StatusOr<v1::FineTuningJob> Client::CancelJob(const std::string& name) {
  v1::CancelFineTuningJobRequest request;
  request.set_name(name);
  return Call(jobs_, &v1::FineTuningService::Stub::CancelFineTuningJob, request, Repeat::kOnce);
}

StatusOr<v1::FineTuningJob> Client::PauseJob(const std::string& name) {
  v1::PauseFineTuningJobRequest request;
  request.set_name(name);
  return Call(jobs_, &v1::FineTuningService::Stub::PauseFineTuningJob, request, Repeat::kOnce);
}

StatusOr<v1::FineTuningJob> Client::ResumeJob(const std::string& name) {
  v1::ResumeFineTuningJobRequest request;
  request.set_name(name);
  return Call(jobs_, &v1::FineTuningService::Stub::ResumeFineTuningJob, request, Repeat::kOnce);
}

Status Client::DeleteJob(const std::string& name) {
  v1::DeleteFineTuningJobRequest request;
  request.set_name(name);
  return Call(jobs_, &v1::FineTuningService::Stub::DeleteFineTuningJob, request, Repeat::kOnce).status();
}

StatusOr<v1::EstimateFineTuningJobResponse> Client::Estimate(v1::EstimateFineTuningJobRequest request) {
  if (request.parent().empty()) request.set_parent(Parent());
  return Call(jobs_, &v1::FineTuningService::Stub::EstimateFineTuningJob, request, Repeat::kSafe);
}

StatusOr<v1::Adapter> Client::GetAdapter(const std::string& name) {
  v1::GetAdapterRequest request;
  request.set_name(name);
  return Call(adapters_, &v1::AdapterService::Stub::GetAdapter, request, Repeat::kSafe);
}

StatusOr<v1::ListAdaptersResponse> Client::ListAdapters(const ListOptions& options) {
  v1::ListAdaptersRequest request;
  request.set_parent(Parent());
  return ListPages(adapters_, &v1::AdapterService::Stub::ListAdapters, request, options);
}

Status Client::DeleteAdapter(const std::string& name) {
  v1::DeleteAdapterRequest request;
  request.set_name(name);
  return Call(adapters_, &v1::AdapterService::Stub::DeleteAdapter, request, Repeat::kOnce).status();
}

StatusOr<google::longrunning::Operation> Client::ExportAdapter(v1::ExportAdapterRequest request) {
  FillRequestId(request);
  return Call(adapters_, &v1::AdapterService::Stub::ExportAdapter, request, Repeat::kSafe);
}

StatusOr<google::longrunning::Operation> Client::MergeAdapters(v1::MergeAdaptersRequest request) {
  if (request.parent().empty()) request.set_parent(Parent());
  FillRequestId(request);
  return Call(adapters_, &v1::AdapterService::Stub::MergeAdapters, request, Repeat::kSafe);
}

StatusOr<v1::CompareAdaptersResponse> Client::CompareAdapters(v1::CompareAdaptersRequest request) {
  if (request.parent().empty()) request.set_parent(Parent());
  return Call(adapters_, &v1::AdapterService::Stub::CompareAdapters, request, Repeat::kSafe);
}

StatusOr<v1::EvaluationJob> Client::CreateEvaluation(v1::CreateEvaluationJobRequest request) {
  if (request.parent().empty()) request.set_parent(Parent());
  FillRequestId(request);
  return Call(evaluations_, &v1::EvaluationService::Stub::CreateEvaluationJob, request, Repeat::kSafeAndLong);
}

StatusOr<v1::EvaluationJob> Client::GetEvaluation(const std::string& name) {
  v1::GetEvaluationJobRequest request;
  request.set_name(name);
  return Call(evaluations_, &v1::EvaluationService::Stub::GetEvaluationJob, request, Repeat::kSafe);
}

StatusOr<v1::ListEvaluationJobsResponse> Client::ListEvaluations(const ListOptions& options) {
  v1::ListEvaluationJobsRequest request;
  request.set_parent(Parent());
  return ListPages(evaluations_, &v1::EvaluationService::Stub::ListEvaluationJobs, request, options);
}

StatusOr<v1::EvaluationJob> Client::CancelEvaluation(const std::string& name) {
  v1::CancelEvaluationJobRequest request;
  request.set_name(name);
  return Call(evaluations_, &v1::EvaluationService::Stub::CancelEvaluationJob, request, Repeat::kOnce);
}

Status Client::DeleteEvaluation(const std::string& name) {
  v1::DeleteEvaluationJobRequest request;
  request.set_name(name);
  return Call(evaluations_, &v1::EvaluationService::Stub::DeleteEvaluationJob, request, Repeat::kOnce).status();
}

StatusOr<v1::GenerateResponse> Client::Generate(v1::GenerateRequest request) {
  if (request.parent().empty()) request.set_parent(Parent());
  return Call(evaluations_, &v1::EvaluationService::Stub::Generate, request, Repeat::kOnce);
}

StatusOr<v1::EvaluationJob> Client::WaitEvaluation(const std::string& name, const std::stop_token& stop,
                                                   const std::function<void(const v1::EvaluationJob&)>& on_change) {
  SBORA_ASSIGN_OR_RETURN(v1::EvaluationJob job, GetEvaluation(name));
  return Poll<v1::EvaluationJob>(
      std::move(job), [&] { return GetEvaluation(name); },
      [](const v1::EvaluationJob& now) { return IsTerminal(now.state()); }, stop, on_change);
}

StatusOr<google::longrunning::Operation> Client::WaitOperation(
    google::longrunning::Operation operation, const std::stop_token& stop,
    const std::function<void(const google::longrunning::Operation&)>& on_change) {
  google::longrunning::GetOperationRequest request;
  request.set_name(operation.name());
  return Poll<google::longrunning::Operation>(
      std::move(operation),
      [&] { return Call(operations_, &google::longrunning::Operations::Stub::GetOperation, request, Repeat::kSafe); },
      [](const google::longrunning::Operation& now) { return now.done(); }, stop, on_change);
}

StatusOr<v1::ServerInfo> Client::ServerInfo() {
  return Call(admin_, &v1::AdminService::Stub::GetServerInfo, v1::GetServerInfoRequest(), Repeat::kSafe);
}

StatusOr<v1::ListWorkersResponse> Client::ListWorkers(const ListOptions& options) {
  return ListPages(admin_, &v1::AdminService::Stub::ListWorkers, v1::ListWorkersRequest(), options);
}

StatusOr<v1::Worker> Client::DrainWorker(const std::string& name) {
  v1::DrainWorkerRequest request;
  request.set_name(name);
  return Call(admin_, &v1::AdminService::Stub::DrainWorker, request, Repeat::kOnce);
}

}  // namespace sbora::client
