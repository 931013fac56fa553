/// Evaluation jobs, and generation: work that is made, waited for and removed within one call.
#pragma once

#include "sbora/v1/dataset.pb.h"
#include "sbora/v1/evaluation.grpc.pb.h"
#include "sbora/v1/model.pb.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/context.h"
#include "server/services/rpc.h"

namespace sbora::server {

/// Thread-safe; `services` must outlive it.
class EvaluationServiceImpl final : public v1::EvaluationService::Service {
 public:
  explicit EvaluationServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::Status CreateEvaluationJob(grpc::ServerContext* context, const v1::CreateEvaluationJobRequest* request,
                                   v1::EvaluationJob* job) override;
  grpc::Status GetEvaluationJob(grpc::ServerContext* context, const v1::GetEvaluationJobRequest* request,
                                v1::EvaluationJob* job) override;
  grpc::Status ListEvaluationJobs(grpc::ServerContext* context, const v1::ListEvaluationJobsRequest* request,
                                  v1::ListEvaluationJobsResponse* response) override;
  grpc::Status CancelEvaluationJob(grpc::ServerContext* context, const v1::CancelEvaluationJobRequest* request,
                                   v1::EvaluationJob* job) override;
  grpc::Status DeleteEvaluationJob(grpc::ServerContext* context, const v1::DeleteEvaluationJobRequest* request,
                                   google::protobuf::Empty* empty) override;
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request, v1::GenerateResponse* response) override;

 private:
  /// Base model and, when asked for, adapter of a request.
  struct Subject {
    v1::Model model;
    v1::Adapter adapter;  ///< empty without
    std::vector<std::string> uses;
  };
  StatusOr<Subject> ResolveSubject(const std::string& project, const std::string& model, const std::string& adapter,
                                   std::string_view field_prefix, worker::v1::Task& task) const;
  /// Completes `name`, the spec's `field`, and adds the data set's file to the task as a group and to what the work uses.
  StatusOr<v1::Dataset> AddDataset(const std::string& project, std::string_view field, const char* group_name, std::string& name,
                                   Subject& subject, worker::v1::Task& task) const;
  /// Reads the data to its end: what cannot be scored is refused before a worker is taken.
  Status CheckData(const v1::EvaluationSpec& spec, const v1::Dataset& dataset, const v1::Dataset& few_shots) const;
  Status Create(const v1::CreateEvaluationJobRequest& request, v1::EvaluationJob& job);
  Status List(const v1::ListEvaluationJobsRequest& request, v1::ListEvaluationJobsResponse& response);
  Status RunGenerate(const v1::GenerateRequest& request, const Call& call, v1::GenerateResponse& response);
  StatusOr<Work> FinishGenerate(const Work& work, const Call& call);

  const ServiceContext& services_;
};

}  // namespace sbora::server
