/// Data sets: one uploaded file each, read to its end before it becomes a resource.
#pragma once

#include "sbora/v1/dataset.grpc.pb.h"
#include "server/services/context.h"

namespace sbora::server {

/// Thread-safe; `services` must outlive it.
class DatasetServiceImpl final : public v1::DatasetService::Service {
 public:
  explicit DatasetServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::Status CreateDataset(grpc::ServerContext* context, const v1::CreateDatasetRequest* request, v1::Dataset* dataset) override;
  grpc::Status GetDataset(grpc::ServerContext* context, const v1::GetDatasetRequest* request, v1::Dataset* dataset) override;
  grpc::Status ListDatasets(grpc::ServerContext* context, const v1::ListDatasetsRequest* request,
                            v1::ListDatasetsResponse* response) override;
  grpc::Status DeleteDataset(grpc::ServerContext* context, const v1::DeleteDatasetRequest* request,
                             google::protobuf::Empty* empty) override;

 private:
  Status Create(const v1::CreateDatasetRequest& request, v1::Dataset& dataset);
  Status CheckFile(v1::Dataset& dataset);

  const ServiceContext& services_;
};

}  // namespace sbora::server
