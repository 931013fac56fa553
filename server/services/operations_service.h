/// google.longrunning.Operations over imports, merges and exports.
#pragma once

#include <google/longrunning/operations.grpc.pb.h>

#include "server/services/context.h"
#include "server/services/rpc.h"

namespace sbora::server {

/// Thread-safe; `services` must outlive it.
class OperationsServiceImpl final : public google::longrunning::Operations::Service {
 public:
  explicit OperationsServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::Status ListOperations(grpc::ServerContext* context, const google::longrunning::ListOperationsRequest* request,
                              google::longrunning::ListOperationsResponse* response) override;
  grpc::Status GetOperation(grpc::ServerContext* context, const google::longrunning::GetOperationRequest* request,
                            google::longrunning::Operation* operation) override;
  /// FAILED_PRECONDITION JOB_NOT_TERMINAL while it runs.
  grpc::Status DeleteOperation(grpc::ServerContext* context, const google::longrunning::DeleteOperationRequest* request,
                               google::protobuf::Empty* empty) override;
  grpc::Status CancelOperation(grpc::ServerContext* context, const google::longrunning::CancelOperationRequest* request,
                               google::protobuf::Empty* empty) override;
  grpc::Status WaitOperation(grpc::ServerContext* context, const google::longrunning::WaitOperationRequest* request,
                             google::longrunning::Operation* operation) override;

 private:
  StatusOr<Work> Find(const std::string& name) const;
  Status List(const google::longrunning::ListOperationsRequest& request, google::longrunning::ListOperationsResponse& response);
  Status Wait(const google::longrunning::WaitOperationRequest& request, const Call& call, google::longrunning::Operation& operation);

  const ServiceContext& services_;
};

}  // namespace sbora::server
