/// Fine-tuning jobs.
#pragma once

#include "common/mutex.h"
#include "sbora/v1/job.grpc.pb.h"
#include "server/services/context.h"
#include "server/services/rpc.h"

namespace sbora::server {

/// Thread-safe; `services` must outlive it.
class FineTuningServiceImpl final : public v1::FineTuningService::WithCallbackMethod_WatchFineTuningJob<v1::FineTuningService::Service> {
 public:
  explicit FineTuningServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::Status CreateFineTuningJob(grpc::ServerContext* context, const v1::CreateFineTuningJobRequest* request,
                                   v1::FineTuningJob* job) override;
  grpc::Status GetFineTuningJob(grpc::ServerContext* context, const v1::GetFineTuningJobRequest* request,
                                v1::FineTuningJob* job) override;
  grpc::Status ListFineTuningJobs(grpc::ServerContext* context, const v1::ListFineTuningJobsRequest* request,
                                  v1::ListFineTuningJobsResponse* response) override;
  grpc::Status DeleteFineTuningJob(grpc::ServerContext* context, const v1::DeleteFineTuningJobRequest* request,
                                   google::protobuf::Empty* empty) override;
  grpc::Status CancelFineTuningJob(grpc::ServerContext* context, const v1::CancelFineTuningJobRequest* request,
                                   v1::FineTuningJob* job) override;
  grpc::Status PauseFineTuningJob(grpc::ServerContext* context, const v1::PauseFineTuningJobRequest* request,
                                  v1::FineTuningJob* job) override;
  grpc::Status ResumeFineTuningJob(grpc::ServerContext* context, const v1::ResumeFineTuningJobRequest* request,
                                   v1::FineTuningJob* job) override;
  grpc::Status ListFineTuningEvents(grpc::ServerContext* context, const v1::ListFineTuningEventsRequest* request,
                                    v1::ListFineTuningEventsResponse* response) override;
  grpc::Status ListFineTuningCheckpoints(grpc::ServerContext* context, const v1::ListFineTuningCheckpointsRequest* request,
                                         v1::ListFineTuningCheckpointsResponse* response) override;
  grpc::Status ListFineTuningMetrics(grpc::ServerContext* context, const v1::ListFineTuningMetricsRequest* request,
                                     v1::ListFineTuningMetricsResponse* response) override;
  grpc::Status EstimateFineTuningJob(grpc::ServerContext* context, const v1::EstimateFineTuningJobRequest* request,
                                     v1::EstimateFineTuningJobResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchFineTuningJobResponse>* WatchFineTuningJob(grpc::CallbackServerContext* context,
                                                                               const v1::WatchFineTuningJobRequest* request) override;

 private:
  Status Create(const v1::CreateFineTuningJobRequest& request, const Call& call, v1::FineTuningJob& job);
  /// True, with `job` filled, when an earlier call with this request_id made it.
  StatusOr<bool> Repeated(const v1::CreateFineTuningJobRequest& request, v1::FineTuningJob& job);
  /// A job that asks for regions apart from others': takes its turn, and is planned again when it lost a race.
  Status CreateDisjoint(const v1::CreateFineTuningJobRequest& request, const Call& call, v1::FineTuningJob& job);
  Status CreateOnce(const v1::CreateFineTuningJobRequest& request, const Call& call, v1::FineTuningJob& job);
  Status List(const v1::ListFineTuningJobsRequest& request, v1::ListFineTuningJobsResponse& response);
  Status ListEvents(const v1::ListFineTuningEventsRequest& request, v1::ListFineTuningEventsResponse& response);
  Status ListCheckpoints(const v1::ListFineTuningCheckpointsRequest& request, v1::ListFineTuningCheckpointsResponse& response);
  Status ListMetrics(const v1::ListFineTuningMetricsRequest& request, v1::ListFineTuningMetricsResponse& response);

  const ServiceContext& services_;
  /// The store decides who got what (PutRegions). Taking turns only spares jobs that ask for disjoint regions from drawing
  /// the same free coordinates again and again.
  Mutex disjoint_mutex_;
};

/// The work behind `projects/{p}/fineTuningJobs/{j}`.
StatusOr<Work> FindJob(const ServiceContext& services, const std::string& name, std::string_view field);
/// `state = RUNNING OR state = QUEUED`; empty for all. Errors: UNIMPLEMENTED FILTER_NOT_SUPPORTED.
StatusOr<std::vector<core::JobState>> ParseStateFilter(const std::string& filter);

}  // namespace sbora::server
