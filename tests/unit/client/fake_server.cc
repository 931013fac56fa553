#include "tests/unit/client/fake_server.h"

#include <fmt/format.h>
#include <grpcpp/server_builder.h>

#include <algorithm>

#include "common/grpc/status_convert.h"
#include "common/sha256.h"

namespace sbora::client {
namespace {

grpc::Status Break() { return ToGrpc(Unavailable("SHUTTING_DOWN", "the server is going down")); }
grpc::Status Missing(const std::string& kind, const std::string& name) {
  return ToGrpc(NotFound(kind + "_NOT_FOUND", name + " is not there"));
}

}  // namespace

v1::WatchFineTuningJobResponse JobMessage(int64_t sequence, const std::string& name, v1::FineTuningJob::State state) {
  v1::WatchFineTuningJobResponse message;
  message.set_sequence(sequence);
  message.mutable_job()->set_name(name);
  message.mutable_job()->set_state(state);
  message.mutable_change()->set_sequence(sequence);
  message.mutable_change()->set_type("STATE_CHANGED");
  message.mutable_change()->set_message("-> " + v1::FineTuningJob::State_Name(state));
  message.mutable_change()->set_level(v1::FineTuningEvent::LEVEL_INFO);
  return message;
}

v1::WatchFineTuningJobResponse EventMessage(int64_t sequence, const std::string& text) {
  v1::WatchFineTuningJobResponse message;
  message.set_sequence(sequence);
  message.mutable_event()->set_sequence(sequence);
  message.mutable_event()->set_message(text);
  message.mutable_event()->set_level(v1::FineTuningEvent::LEVEL_INFO);
  return message;
}

FakeServer::FakeServer() {
  grpc::ServerBuilder builder;
  builder.RegisterService(static_cast<v1::FineTuningService::Service*>(this));
  builder.RegisterService(static_cast<v1::ModelService::Service*>(this));
  builder.RegisterService(static_cast<v1::DatasetService::Service*>(this));
  builder.RegisterService(static_cast<v1::AdapterService::Service*>(this));
  builder.RegisterService(static_cast<v1::EvaluationService::Service*>(this));
  builder.RegisterService(static_cast<v1::AdminService::Service*>(this));
  builder.RegisterService(static_cast<v1::TransferService::Service*>(this));
  builder.RegisterService(static_cast<google::longrunning::Operations::Service*>(this));
  server_ = builder.BuildAndStart();
}

FakeServer::~FakeServer() { server_->Shutdown(); }

std::shared_ptr<grpc::Channel> FakeServer::Channel() { return server_->InProcessChannel(grpc::ChannelArguments()); }

std::unique_ptr<Client> FakeServer::NewClient() {
  ClientOptions options;
  options.retry.initial = std::chrono::milliseconds(1);
  options.transfer_retry.initial = std::chrono::milliseconds(1);
  options.poll_interval = std::chrono::milliseconds(1);
  return std::make_unique<Client>(Channel(), options);
}

v1::File FakeServer::AddFile(const std::string& name, const std::string& bytes) {
  v1::File file;
  file.set_path(name);
  file.set_size_bytes(static_cast<int64_t>(bytes.size()));
  file.set_sha256(Sha256Hex(bytes));
  file.set_object("projects/default/objects/" + name);
  objects[file.object()] = bytes;
  return file;
}

grpc::Status FakeServer::CreateFineTuningJob(Context*, const v1::CreateFineTuningJobRequest* request,
                                             v1::FineTuningJob* job) {
  MutexLock lock(mutex_);
  creates.push_back(*request);
  if (create_failures-- > 0) return Break();
  if (!create_error.ok()) return ToGrpc(create_error);
  const auto refusal = refusals.find(request->fine_tuning_job().spec().adapter().method());
  if (refusal != refusals.end()) return ToGrpc(refusal->second);
  *job = request->fine_tuning_job();
  const std::string id = request->fine_tuning_job_id().empty() ? "made-up" : request->fine_tuning_job_id();
  job->set_name(request->parent() + "/fineTuningJobs/" + id);
  job->set_uid("uid-" + id);
  job->set_trainable_parameters(1000);
  job->set_state(v1::FineTuningJob::STATE_QUEUED);
  if (request->validate_only()) return grpc::Status::OK;
  if (finish_jobs) Finish(*job);
  jobs[job->name()] = *job;
  return grpc::Status::OK;
}

/// Figures that differ by method and seed.
void FakeServer::Finish(v1::FineTuningJob& job) {
  if (failing_jobs.contains(job.name())) {
    job.set_state(v1::FineTuningJob::STATE_FAILED);
    job.mutable_failure()->set_message("the loss is not finite");
    return;
  }
  const auto method = static_cast<double>(job.spec().adapter().method());
  job.set_state(v1::FineTuningJob::STATE_SUCCEEDED);
  v1::FineTuningResult& result = *job.mutable_result();
  result.set_validation_loss(method + static_cast<double>(job.spec().training().seed()) / 100);
  result.set_tokens_per_second(100 * method);
  result.set_peak_memory_bytes(1 << 20);
  std::string adapter = job.name();
  adapter.replace(adapter.find("fineTuningJobs"), 14, "adapters");
  job.set_adapter(adapter);
  adapters[adapter].set_name(adapter);
  adapters[adapter].set_size_bytes(2048);
}

grpc::Status FakeServer::GetModel(Context*, const v1::GetModelRequest* request, v1::Model* model) {
  MutexLock lock(mutex_);
  if (!models.contains(request->name())) return Missing("MODEL", request->name());
  *model = models[request->name()];
  return grpc::Status::OK;
}

grpc::Status FakeServer::GetFineTuningJob(Context*, const v1::GetFineTuningJobRequest* request,
                                          v1::FineTuningJob* job) {
  MutexLock lock(mutex_);
  if (!jobs.contains(request->name())) return Missing("JOB", request->name());
  *job = jobs[request->name()];
  return grpc::Status::OK;
}

grpc::Status FakeServer::ListFineTuningJobs(Context*, const v1::ListFineTuningJobsRequest* request,
                                            v1::ListFineTuningJobsResponse* response) {
  MutexLock lock(mutex_);
  lists.push_back(*request);
  const int64_t first = request->page_token().empty() ? 0 : std::stoll(request->page_token());
  const int64_t size = std::min<int64_t>(request->page_size(), 3);  // the server's own limit
  for (int64_t i = first; i < std::min(first + size, page_items); ++i) {
    response->add_fine_tuning_jobs()->set_name(fmt::format("projects/default/fineTuningJobs/j{}", i));
  }
  if (first + size < page_items) response->set_next_page_token(std::to_string(first + size));
  return grpc::Status::OK;
}

grpc::Status FakeServer::WatchFineTuningJob(Context*, const v1::WatchFineTuningJobRequest* request,
                                            grpc::ServerWriter<v1::WatchFineTuningJobResponse>* writer) {
  MutexLock lock(mutex_);
  const size_t stream = watch_sequences.size();
  watch_sequences.push_back(request->after_sequence());
  if (!jobs.contains(request->name())) return Missing("JOB", request->name());
  int left = stream < watch_breaks.size() ? watch_breaks[stream] : -1;
  for (const auto& message : watch_messages) {
    if (!watch_repeats && message.sequence() <= request->after_sequence()) continue;
    if (left-- == 0) return Break();
    writer->Write(message);
  }
  return left == 0 ? Break() : grpc::Status::OK;
}

grpc::Status FakeServer::EstimateFineTuningJob(Context*, const v1::EstimateFineTuningJobRequest* request,
                                               v1::EstimateFineTuningJobResponse* response) {
  MutexLock lock(mutex_);
  estimates.push_back(*request);
  response->set_trainable_parameters(123456);
  return grpc::Status::OK;
}

grpc::Status FakeServer::ImportModel(Context*, const v1::ImportModelRequest* request,
                                     google::longrunning::Operation* operation) {
  MutexLock lock(mutex_);
  imports.push_back(*request);
  operation->set_name("projects/default/operations/o1");
  return grpc::Status::OK;
}

grpc::Status FakeServer::GetAdapter(Context*, const v1::GetAdapterRequest* request, v1::Adapter* adapter) {
  MutexLock lock(mutex_);
  if (!adapters.contains(request->name())) return Missing("ADAPTER", request->name());
  *adapter = adapters[request->name()];
  return grpc::Status::OK;
}

grpc::Status FakeServer::ExportAdapter(Context*, const v1::ExportAdapterRequest*,
                                       google::longrunning::Operation* operation) {
  operation->set_name("projects/default/operations/o1");
  return grpc::Status::OK;
}

grpc::Status FakeServer::MergeAdapters(Context*, const v1::MergeAdaptersRequest* request,
                                       google::longrunning::Operation* operation) {
  MutexLock lock(mutex_);
  merges.push_back(*request);
  operation->set_name("projects/default/operations/o1");
  return grpc::Status::OK;
}

grpc::Status FakeServer::CompareAdapters(Context*, const v1::CompareAdaptersRequest* request,
                                         v1::CompareAdaptersResponse* response) {
  MutexLock lock(mutex_);
  comparisons.push_back(*request);
  *response = comparison;
  return grpc::Status::OK;
}

grpc::Status FakeServer::CreateEvaluationJob(Context*, const v1::CreateEvaluationJobRequest* request,
                                             v1::EvaluationJob* job) {
  MutexLock lock(mutex_);
  evaluations.push_back(*request);
  *job = request->evaluation_job();
  const std::string id = request->evaluation_job_id().empty() ? "e" : request->evaluation_job_id();
  job->set_name(request->parent() + "/evaluationJobs/" + id);
  job->set_state(v1::EvaluationJob::STATE_QUEUED);
  if (!keep_evaluations || request->validate_only()) return grpc::Status::OK;
  v1::EvaluationJob& kept = evaluation_jobs[job->name()];
  kept = *job;
  kept.set_state(v1::EvaluationJob::STATE_SUCCEEDED);
  kept.mutable_result()->set_samples(10);
  kept.mutable_result()->set_accuracy(kept.spec().adapter().empty() ? 0.5 : 0.75);
  kept.mutable_result()->set_perplexity(kept.spec().adapter().empty() ? 9 : 4);
  return grpc::Status::OK;
}

grpc::Status FakeServer::GetEvaluationJob(Context*, const v1::GetEvaluationJobRequest* request,
                                          v1::EvaluationJob* job) {
  MutexLock lock(mutex_);
  if (const auto found = evaluation_jobs.find(request->name()); found != evaluation_jobs.end()) {
    *job = found->second;
    return grpc::Status::OK;
  }
  if (keep_evaluations) return Missing("EVALUATION_JOB", request->name());
  job->set_name(request->name());
  job->set_state(operation_polls-- > 0 ? v1::EvaluationJob::STATE_RUNNING : v1::EvaluationJob::STATE_SUCCEEDED);
  job->mutable_result()->set_samples(10);
  job->mutable_result()->set_correct(9);
  job->mutable_result()->set_accuracy(0.9);
  return grpc::Status::OK;
}

grpc::Status FakeServer::ListEvaluationJobs(Context*, const v1::ListEvaluationJobsRequest*,
                                            v1::ListEvaluationJobsResponse* response) {
  MutexLock lock(mutex_);
  for (const auto& [name, job] : evaluation_jobs) *response->add_evaluation_jobs() = job;
  return grpc::Status::OK;
}

grpc::Status FakeServer::CreateDataset(Context*, const v1::CreateDatasetRequest* request, v1::Dataset* dataset) {
  MutexLock lock(mutex_);
  datasets.push_back(*request);
  dataset->set_name(request->parent() + "/datasets/" + request->dataset_id());
  return grpc::Status::OK;
}

grpc::Status FakeServer::Generate(Context*, const v1::GenerateRequest* request, v1::GenerateResponse* response) {
  MutexLock lock(mutex_);
  generates.push_back(*request);
  for (const std::string& prompt : request->prompts()) response->add_texts("echo " + prompt);
  return grpc::Status::OK;
}

grpc::Status FakeServer::GetServerInfo(Context*, const v1::GetServerInfoRequest*, v1::ServerInfo* info) {
  info->set_version("1.2.3");
  info->set_address("127.0.0.1:7400");
  info->set_http_address("127.0.0.1:7401");
  return grpc::Status::OK;
}

grpc::Status FakeServer::CreateUpload(Context*, const v1::CreateUploadRequest* request, v1::Upload* upload) {
  MutexLock lock(mutex_);
  upload->set_name(fmt::format("{}/uploads/u{}", request->parent(), upload_states_.size()));
  upload->set_size_bytes(request->size_bytes());
  upload->set_sha256(request->sha256());
  upload_states_[upload->name()] = *upload;
  uploads[upload->name()] = "";
  return grpc::Status::OK;
}

grpc::Status FakeServer::GetUpload(Context*, const v1::GetUploadRequest* request, v1::Upload* upload) {
  MutexLock lock(mutex_);
  *upload = upload_states_[request->name()];
  return grpc::Status::OK;
}

grpc::Status FakeServer::WriteUpload(Context*, grpc::ServerReader<v1::WriteUploadRequest>* reader, v1::Upload* upload) {
  MutexLock lock(mutex_);
  ++upload_streams;
  v1::WriteUploadRequest message;
  std::string name;
  while (reader->Read(&message)) {
    if (!message.name().empty()) name = message.name();
    if (upload_stalls) break;
    v1::Upload& state = upload_states_[name];
    if (message.offset() != state.received_bytes()) return ToGrpc(OutOfRange("UPLOAD_OFFSET", "wrong offset"));
    uploads[name] += message.data();
    state.set_received_bytes(static_cast<int64_t>(uploads[name].size()));
    if (upload_breaks > 0) {
      --upload_breaks;
      return Break();
    }
  }
  *upload = upload_states_[name];
  return grpc::Status::OK;
}

grpc::Status FakeServer::FinishUpload(Context* context, const v1::FinishUploadRequest* request, v1::Upload* upload) {
  MutexLock lock(mutex_);
  finish_time_allowed = context->deadline() - std::chrono::system_clock::now();
  v1::Upload& state = upload_states_[request->name()];
  if (Sha256Hex(uploads[request->name()]) != state.sha256()) return ToGrpc(DataLoss("HASH_MISMATCH", "other bytes"));
  state.set_finished(true);
  state.set_object("projects/default/objects/x");
  *upload = state;
  return grpc::Status::OK;
}

grpc::Status FakeServer::GetDownload(Context*, const v1::GetDownloadRequest*, v1::GetDownloadResponse*) {
  return grpc::Status::OK;
}

grpc::Status FakeServer::Download(Context*, const v1::DownloadRequest* request,
                                  grpc::ServerWriter<v1::DownloadResponse>* writer) {
  MutexLock lock(mutex_);
  if (!objects.contains(request->object())) return Missing("OBJECT", request->object());
  v1::DownloadResponse response;
  response.set_data(objects[request->object()].substr(static_cast<size_t>(request->offset())));
  if (!response.data().empty()) writer->Write(response);
  return grpc::Status::OK;
}

grpc::Status FakeServer::GetOperation(Context*, const google::longrunning::GetOperationRequest* request,
                                      google::longrunning::Operation* operation) {
  MutexLock lock(mutex_);
  operation->set_name(request->name());
  *operation->mutable_metadata() = operation_metadata;
  if (operation_polls-- > 0) return grpc::Status::OK;
  operation->set_done(true);
  if (operation_error.code() != 0) {
    *operation->mutable_error() = operation_error;
  } else {
    *operation->mutable_response() = operation_response;
  }
  return grpc::Status::OK;
}

}  // namespace sbora::client
