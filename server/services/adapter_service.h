/// Trained adapters. Export and merge are operations that a worker runs.
#pragma once

#include "sbora/v1/adapter.grpc.pb.h"
#include "sbora/v1/model.pb.h"
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
  grpc::Status CompareAdapters(grpc::ServerContext* context, const v1::CompareAdaptersRequest* request,
                               v1::CompareAdaptersResponse* response) override;

 private:
  Status Export(const v1::ExportAdapterRequest& request, google::longrunning::Operation& operation);
  Status Merge(const v1::MergeAdaptersRequest& request, google::longrunning::Operation& operation);
  /// True, with `operation` filled, when an earlier call with this request_id made it.
  StatusOr<bool> Repeated(const std::string& project, const std::string& request_id, const std::string& request_hash,
                          google::longrunning::Operation& operation);
  /// `uses`: the adapters of `metadata`, and the model when it is read.
  struct PlannedOperation {
    WorkKind kind = WorkKind::kExport;
    std::string project;
    worker::v1::Task task;
    v1::AdapterOperationMetadata metadata;
    std::vector<std::string> uses;
    std::string request_id;
    std::string request_hash;
    bool validate_only = false;  ///< nothing is stored then, and the operation has no name
  };
  /// The model it was trained on. Errors: NOT_FOUND MODEL_NOT_FOUND, FAILED_PRECONDITION BASE_MISMATCH.
  StatusOr<v1::Model> BaseOf(const v1::Adapter& adapter, std::string_view field) const;
  /// The adapter's base among the task's inputs.
  StatusOr<v1::Model> AddModelInput(const v1::Adapter& adapter, PlannedOperation& planned) const;
  /// A patch holds values of the base, so the trainer needs it.
  Status AddPatchInputs(const v1::Adapter& adapter, PlannedOperation& planned) const;
  Status SubmitOperation(const PlannedOperation& planned, google::longrunning::Operation& operation);

  const ServiceContext& services_;
};

}  // namespace sbora::server
