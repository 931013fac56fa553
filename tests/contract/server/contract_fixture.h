/// A whole server in process on a temporary folder, all stubs of it, and an agent played by the test.
#pragma once

#include <google/longrunning/operations.grpc.pb.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/file.h"
#include "common/grpc/status_convert.h"
#include "common/ids.h"
#include "sbora/v1/adapter.grpc.pb.h"
#include "sbora/v1/admin.grpc.pb.h"
#include "sbora/v1/dataset.grpc.pb.h"
#include "sbora/v1/evaluation.grpc.pb.h"
#include "sbora/v1/job.grpc.pb.h"
#include "sbora/v1/model.grpc.pb.h"
#include "sbora/v1/transfer.grpc.pb.h"
#include "sbora/worker/v1/worker.grpc.pb.h"
#include "server/sbora_server.h"

namespace sbora::server {

inline constexpr const char* kProject = "projects/default";
inline constexpr const char* kGoodData = "{\"prompt\": \"Q: the\", \"completion\": \" abc\"}\n{\"prompt\": \"Q: b\", \"completion\": \" c\"}\n";

/// `CodeIs(status, INVALID_ARGUMENT, "INVALID_SPEC")`: code, reason and our domain are there.
::testing::AssertionResult Fails(const grpc::Status& status, grpc::StatusCode code, const std::string& reason);
/// The fields of the violations.
std::vector<std::string> ViolatedFields(const grpc::Status& status);

class ContractTest : public ::testing::Test {
 protected:
  ContractTest();
  void SetUp() override { StartServer(); }

  virtual void Configure(config::v1::ServerConfig& /*config*/) {}
  void StartServer();
  void StopServer();

  /// One call with a deadline of 60 s (and the token, when set).
  template <typename Stub, typename Request, typename Response>
  grpc::Status Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*), const Request& request,
                    Response* response) {
    grpc::ClientContext context;
    Prepare(context);
    return (stub.*method)(&context, request, response);
  }
  void Prepare(grpc::ClientContext& context) const;

  /// Uploads `bytes` and answers the finished upload.
  v1::Upload UploadBytes(const std::string& bytes, const std::string& project = kProject);
  v1::File FileOf(const std::string& path, const std::string& bytes);
  grpc::Status ImportModel(const std::string& id, google::longrunning::Operation* operation, const std::string& request_id = "");
  grpc::Status CreateDataset(const std::string& id, const std::string& bytes, v1::Dataset* dataset);
  /// Import through the played agent.
  void MakeModel(const std::string& id, const std::string& base_hash = std::string(64, 'a'), bool chat = true);
  void MakeDataset(const std::string& id);
  /// A good request on model "base" and data set "data".
  v1::CreateFineTuningJobRequest GoodJob(const std::string& id);
  v1::FineTuningJob GetJob(const std::string& id);
  void WaitForState(const std::string& id, v1::FineTuningJob::State state);

  /// Calls of "package.Service/Method" that ended with this code, by name. A caller that is gone is told nothing: for its
  /// call this is what is left to see.
  int EndedCalls(const std::string& method, const std::string& code) const;
  /// Until one more of them than `before` has ended.
  void WaitForEndedCall(const std::string& method, const std::string& code, int before) const;

  // The agent.
  worker::v1::SynchronizeRequest SyncRequest() const;
  /// Calls until something is to be started or stopped.
  worker::v1::SynchronizeResponse Sync(const std::function<bool(const worker::v1::SynchronizeResponse&)>& enough);
  worker::v1::Lease NextLease();
  void ReportRunning(const worker::v1::Lease& lease);
  grpc::Status Commit(const worker::v1::Lease& lease, const worker::v1::TaskResult& result,
                      const std::vector<std::pair<std::string, std::string>>& files);
  /// Trains job `id` to its end.
  void FinishJob(const std::string& id);

  TempDirectory directory_;
  std::optional<std::string> token_;
  std::unique_ptr<SboraServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ModelService::Stub> models_;
  std::unique_ptr<v1::DatasetService::Stub> datasets_;
  std::unique_ptr<v1::FineTuningService::Stub> jobs_;
  std::unique_ptr<v1::AdapterService::Stub> adapters_;
  std::unique_ptr<v1::EvaluationService::Stub> evaluations_;
  std::unique_ptr<v1::TransferService::Stub> transfers_;
  std::unique_ptr<v1::AdminService::Stub> admin_;
  std::unique_ptr<google::longrunning::Operations::Stub> operations_;
  std::unique_ptr<worker::v1::WorkerService::Stub> worker_;

  // What the agent holds now, reported with each call.
  std::string instance_ = NewUuid4();
  std::map<std::string, worker::v1::AttemptReport> attempts_;
};

}  // namespace sbora::server
