/// What agents call.
#pragma once

#include "sbora/worker/v1/worker.grpc.pb.h"
#include "server/services/context.h"

namespace sbora::server {

/// Thread-safe; `services` must outlive it.
class WorkerServiceImpl final : public worker::v1::WorkerService::WithCallbackMethod_Synchronize<worker::v1::WorkerService::Service> {
 public:
  explicit WorkerServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::ServerUnaryReactor* Synchronize(grpc::CallbackServerContext* context, const worker::v1::SynchronizeRequest* request,
                                        worker::v1::SynchronizeResponse* response) override;
  grpc::Status CommitAttempt(grpc::ServerContext* context, const worker::v1::CommitAttemptRequest* request,
                             worker::v1::CommitAttemptResponse* response) override;

 private:
  const ServiceContext& services_;
};

/// Wire to scheduler. A reported checkpoint of unknown objects, or of other bytes than were uploaded
/// (BAD_CHECKPOINT), becomes a warning among the job's events.
StatusOr<SyncRequest> SyncRequestOf(const ServiceContext& services, const worker::v1::SynchronizeRequest& request);
StatusOr<std::vector<ReportItem>> ReportItemsOf(const ServiceContext& services,
                                                const google::protobuf::RepeatedPtrField<worker::v1::ReportItem>& items);
Status FillResponse(const SyncResponse& from, const core::LeaseTiming& timing, worker::v1::SynchronizeResponse& to);

/// Checks files, puts the manifest, commits with the scheduler.
Status CommitTask(const ServiceContext& services, const worker::v1::CommitAttemptRequest& request);

}  // namespace sbora::server
