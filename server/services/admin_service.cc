#include "server/services/admin_service.h"

#include <algorithm>

#include "common/ids.h"
#include "common/status_macros.h"
#include "server/services/convert.h"
#include "server/services/requests.h"
#include "server/services/rpc.h"

namespace sbora::server {

v1::ServerInfo ServerInfoOf(const ServiceContext& services) {
  v1::ServerInfo info;
  info.set_version(services.version);
  info.set_address(services.address.Get());
  info.set_http_address(services.http_address.Get());
  info.set_store(std::string(services.store().kind()));
  info.set_object_store(services.object_store_kind);
  *info.mutable_start_time() = ToTimestamp(ToUnixMillis(services.start_time));
  info.set_worker_protocol_min(kWorkerProtocolMin);
  info.set_worker_protocol_max(kWorkerProtocolMax);
  return info;
}

Status AdminServiceImpl::List(const v1::ListWorkersRequest& request, v1::ListWorkersResponse& response) {
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(request.page_size(), request.page_token(), "workers"));
  std::vector<WorkerView> workers = services_.coordinator->ListWorkers();
  std::sort(workers.begin(), workers.end(), [](const WorkerView& a, const WorkerView& b) { return a.row.name < b.row.name; });
  // The cursor is the last name of the page before.
  auto next = std::upper_bound(workers.begin(), workers.end(), page.cursor,
                               [](const std::string& name, const WorkerView& view) { return name < view.row.name; });
  for (; next != workers.end() && response.workers_size() < page.size; ++next) *response.add_workers() = WorkerOf(*next);
  if (next != workers.end()) response.set_next_page_token(PageToken(std::prev(next)->row.name, "workers"));
  return OkStatus();
}

grpc::Status AdminServiceImpl::GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest*, v1::ServerInfo* info) {
  return Unary(services_, *context, "sbora.v1.AdminService/GetServerInfo", [&](const Call&) {
    *info = ServerInfoOf(services_);
    return OkStatus();
  });
}

grpc::Status AdminServiceImpl::ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest* request,
                                           v1::ListWorkersResponse* response) {
  return Unary(services_, *context, "sbora.v1.AdminService/ListWorkers", [&](const Call&) { return List(*request, *response); });
}

grpc::Status AdminServiceImpl::DrainWorker(grpc::ServerContext* context, const v1::DrainWorkerRequest* request, v1::Worker* worker) {
  return Unary(services_, *context, "sbora.v1.AdminService/DrainWorker", [&](const Call&) -> Status {
    constexpr std::string_view kPrefix = "workers/";
    const std::string& name = request->name();
    if (!name.starts_with(kPrefix)) {
      return InvalidArgument("BAD_RESOURCE_NAME", "a worker's name is workers/{w}").WithViolation("name", "must be workers/{w}");
    }
    SBORA_RETURN_IF_ERROR(CheckResourceId(std::string_view(name).substr(kPrefix.size()), "name"));
    SBORA_ASSIGN_OR_RETURN(const WorkerView view, services_.coordinator->DrainWorker(name.substr(kPrefix.size())));
    *worker = WorkerOf(view);
    return OkStatus();
  });
}

}  // namespace sbora::server
