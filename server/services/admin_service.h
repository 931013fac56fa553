/// The server and its workers.
#pragma once

#include "sbora/v1/admin.grpc.pb.h"
#include "server/services/context.h"

namespace sbora::server {

inline constexpr int kWorkerProtocolMin = 1;
inline constexpr int kWorkerProtocolMax = 1;

v1::ServerInfo ServerInfoOf(const ServiceContext& services);

/// Thread-safe; `services` must outlive it.
class AdminServiceImpl final : public v1::AdminService::Service {
 public:
  explicit AdminServiceImpl(const ServiceContext& services) : services_(services) {}

  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest* request, v1::ServerInfo* info) override;
  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override;
  grpc::Status DrainWorker(grpc::ServerContext* context, const v1::DrainWorkerRequest* request, v1::Worker* worker) override;

 private:
  Status List(const v1::ListWorkersRequest& request, v1::ListWorkersResponse& response);

  const ServiceContext& services_;
};

}  // namespace sbora::server
