/// An in-process server for client tests: holds what it is given, records what it is asked, breaks where it is told to.
/// Set it up before the first call; read what it recorded after the calls have returned.
#pragma once

#include <google/longrunning/operations.grpc.pb.h>
#include <grpcpp/server.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "client/sbora_client.h"
#include "common/mutex.h"
#include "common/status.h"

namespace sbora::client {

class FakeServer : public v1::FineTuningService::Service,
                   public v1::ModelService::Service,
                   public v1::DatasetService::Service,
                   public v1::AdapterService::Service,
                   public v1::EvaluationService::Service,
                   public v1::AdminService::Service,
                   public v1::TransferService::Service,
                   public google::longrunning::Operations::Service {
 public:
  FakeServer();
  ~FakeServer() override;
  std::shared_ptr<grpc::Channel> Channel();
  /// With short back-offs.
  std::unique_ptr<Client> NewClient();
  /// A stored file of these bytes.
  v1::File AddFile(const std::string& name, const std::string& bytes);

  // What it holds.
  std::map<std::string, v1::FineTuningJob> jobs;
  std::map<std::string, v1::Adapter> adapters;
  std::map<std::string, v1::Model> models;
  std::map<std::string, v1::EvaluationJob> evaluation_jobs;
  std::vector<v1::WatchFineTuningJobResponse> watch_messages;
  /// Messages a watch stream sends before it breaks with UNAVAILABLE, by stream; streams beyond the list run to the
  /// end.
  std::vector<int> watch_breaks;
  /// Ignore after_sequence, as a server that repeats would.
  bool watch_repeats = false;
  std::map<std::string, std::string> objects;
  /// The first WriteUpload streams take so many messages and then break.
  int upload_breaks = 0;
  /// WriteUpload streams end well and have taken nothing.
  bool upload_stalls = false;
  /// Calls of CreateFineTuningJob that fail with UNAVAILABLE before one succeeds.
  int create_failures = 0;
  Status create_error;
  /// Methods that CreateFineTuningJob refuses.
  std::map<v1::Method, Status> refusals;
  /// What becomes of a job at once: SUCCEEDED with a result and an adapter, or FAILED for one whose name is listed.
  bool finish_jobs = false;
  std::set<std::string> failing_jobs;
  /// Evaluations are there once they were created, and have succeeded; else every name is one that runs for a while.
  bool keep_evaluations = false;
  int operation_polls = 2;
  google::rpc::Status operation_error;
  google::protobuf::Any operation_response;
  google::protobuf::Any operation_metadata;
  v1::CompareAdaptersResponse comparison;
  int64_t page_items = 0;

  // What it was asked.
  std::vector<v1::CreateFineTuningJobRequest> creates;
  std::vector<int64_t> watch_sequences;
  std::vector<v1::ListFineTuningJobsRequest> lists;
  std::vector<v1::ImportModelRequest> imports;
  std::vector<v1::CreateEvaluationJobRequest> evaluations;
  std::vector<v1::GenerateRequest> generates;
  std::vector<v1::EstimateFineTuningJobRequest> estimates;
  std::vector<v1::MergeAdaptersRequest> merges;
  std::vector<v1::CompareAdaptersRequest> comparisons;
  std::vector<v1::CreateDatasetRequest> datasets;
  std::map<std::string, std::string> uploads;  // bytes by upload name
  int upload_streams = 0;
  std::chrono::system_clock::duration finish_time_allowed{};  // by the deadline of the newest FinishUpload

 private:
  using Context = grpc::ServerContext;
  grpc::Status CreateFineTuningJob(Context*, const v1::CreateFineTuningJobRequest*, v1::FineTuningJob*) override;
  grpc::Status GetFineTuningJob(Context*, const v1::GetFineTuningJobRequest*, v1::FineTuningJob*) override;
  grpc::Status ListFineTuningJobs(Context*, const v1::ListFineTuningJobsRequest*,
                                  v1::ListFineTuningJobsResponse*) override;
  grpc::Status WatchFineTuningJob(Context*, const v1::WatchFineTuningJobRequest*,
                                  grpc::ServerWriter<v1::WatchFineTuningJobResponse>*) override;
  grpc::Status EstimateFineTuningJob(Context*, const v1::EstimateFineTuningJobRequest*,
                                     v1::EstimateFineTuningJobResponse*) override;
  grpc::Status CreateDataset(Context*, const v1::CreateDatasetRequest*, v1::Dataset*) override;
  grpc::Status GetModel(Context*, const v1::GetModelRequest*, v1::Model*) override;
  grpc::Status ImportModel(Context*, const v1::ImportModelRequest*, google::longrunning::Operation*) override;
  grpc::Status GetAdapter(Context*, const v1::GetAdapterRequest*, v1::Adapter*) override;
  grpc::Status ExportAdapter(Context*, const v1::ExportAdapterRequest*, google::longrunning::Operation*) override;
  grpc::Status MergeAdapters(Context*, const v1::MergeAdaptersRequest*, google::longrunning::Operation*) override;
  grpc::Status CompareAdapters(Context*, const v1::CompareAdaptersRequest*, v1::CompareAdaptersResponse*) override;
  grpc::Status CreateEvaluationJob(Context*, const v1::CreateEvaluationJobRequest*, v1::EvaluationJob*) override;
  grpc::Status GetEvaluationJob(Context*, const v1::GetEvaluationJobRequest*, v1::EvaluationJob*) override;
  grpc::Status ListEvaluationJobs(Context*, const v1::ListEvaluationJobsRequest*,
                                  v1::ListEvaluationJobsResponse*) override;
  grpc::Status Generate(Context*, const v1::GenerateRequest*, v1::GenerateResponse*) override;
  grpc::Status GetServerInfo(Context*, const v1::GetServerInfoRequest*, v1::ServerInfo*) override;
  grpc::Status CreateUpload(Context*, const v1::CreateUploadRequest*, v1::Upload*) override;
  grpc::Status GetUpload(Context*, const v1::GetUploadRequest*, v1::Upload*) override;
  grpc::Status WriteUpload(Context*, grpc::ServerReader<v1::WriteUploadRequest>*, v1::Upload*) override;
  grpc::Status FinishUpload(Context*, const v1::FinishUploadRequest*, v1::Upload*) override;
  grpc::Status GetDownload(Context*, const v1::GetDownloadRequest*, v1::GetDownloadResponse*) override;
  grpc::Status Download(Context*, const v1::DownloadRequest*, grpc::ServerWriter<v1::DownloadResponse>*) override;
  grpc::Status GetOperation(Context*, const google::longrunning::GetOperationRequest*,
                            google::longrunning::Operation*) override;

  void Finish(v1::FineTuningJob& job);

  Mutex mutex_;  // around each handler's work
  std::map<std::string, v1::Upload> upload_states_;
  std::unique_ptr<grpc::Server> server_;
};

/// Sequence, then the job in that state, as a watch sends it.
v1::WatchFineTuningJobResponse JobMessage(int64_t sequence, const std::string& name, v1::FineTuningJob::State state);
v1::WatchFineTuningJobResponse EventMessage(int64_t sequence, const std::string& text);

}  // namespace sbora::client
