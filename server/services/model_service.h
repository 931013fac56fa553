/// Base models. Importing is an operation that a worker runs; the commit of it makes the resource.
#pragma once

#include "sbora/v1/model.grpc.pb.h"
#include "server/services/context.h"

namespace sbora::server {

/// Thread-safe; `services` must outlive it.
class ModelServiceImpl final : public v1::ModelService::Service {
 public:
  explicit ModelServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::Status ImportModel(grpc::ServerContext* context, const v1::ImportModelRequest* request,
                           google::longrunning::Operation* operation) override;
  grpc::Status GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request, v1::Model* model) override;
  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override;
  grpc::Status DeleteModel(grpc::ServerContext* context, const v1::DeleteModelRequest* request,
                           google::protobuf::Empty* empty) override;

 private:
  Status Import(const v1::ImportModelRequest& request, google::longrunning::Operation& operation);

  const ServiceContext& services_;
};

}  // namespace sbora::server
