/// Trained adapters. Export and merge are operations that a worker runs.
#pragma once

#include "sbora/v1/adapter.grpc.pb.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/context.h"

namespace sbora::server {

/// Thread-safe; `services` must outlive it.
class AdapterServiceImpl final : public v1::AdapterService::Service {
 public:
  explicit AdapterServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::Status GetAdapter(grpc::ServerContext* context, const v1::GetAdapterRequest* request, v1::Adapter* adapter) override;
  grpc::Status ListAdapters(grpc::ServerContext* context, const v1::ListAdaptersRequest* request,
                            v1::ListAdaptersResponse* response) override;
  grpc::Status DeleteAdapter(grpc::ServerContext* context, const v1::DeleteAdapterRequest* request,
                             google::protobuf::Empty* empty) override;
  grpc::Status ExportAdapter(grpc::ServerContext* context, const v1::ExportAdapterRequest* request,
                             google::longrunning::Operation* operation) override;
  grpc::Status MergeAdapters(grpc::ServerContext* context, const v1::MergeAdaptersRequest* request,
                             google::longrunning::Operation* operation) override;

 private:
  Status Export(const v1::ExportAdapterRequest& request, google::longrunning::Operation& operation);
  Status Merge(const v1::MergeAdaptersRequest& request, google::longrunning::Operation& operation);
  /// True, with `operation` filled, when an earlier call with this request_id made it.
  StatusOr<bool> Repeated(const std::string& project, const std::string& request_id, const std::string& request_hash,
                          google::longrunning::Operation& operation);
  Status SubmitOperation(WorkKind kind, const std::string& project, const worker::v1::Task& task, std::vector<std::string> uses,
                         const std::string& request_id, const std::string& request_hash, bool validate_only,
                         google::longrunning::Operation& operation);

  const ServiceContext& services_;
};

}  // namespace sbora::server
