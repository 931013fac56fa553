#include "server/services/operations_service.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/status_macros.h"
#include "server/services/convert.h"
#include "server/services/pages.h"
#include "server/services/requests.h"
#include "server/services/rpc.h"

namespace sbora::server {
namespace {

namespace lro = google::longrunning;

/// An answer leaves this long before the caller's deadline.
constexpr std::chrono::milliseconds kAnswerMargin{200};

/// "projects/{p}" or "projects/{p}/operations": the project whose operations are asked for.
StatusOr<std::string> ProjectOf(const std::string& name) {
  const std::string suffix = "/operations";
  return core::ParseProject(name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : name, "name");
}

}  // namespace

StatusOr<Work> OperationsServiceImpl::Find(const std::string& name) const {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, core::Collection::kOperations, "name"));
  StatusOr<Work> work = services_.store().GetWork(parsed.ToString());
  if (!work.ok()) return NameMissing(work.status(), "OPERATION", name);
  if (IsOperation(work->row.kind)) return work;
  return NotFound("OPERATION_NOT_FOUND", fmt::format("{} does not exist", name)).WithMetadata("resource", name);
}

Status OperationsServiceImpl::List(const lro::ListOperationsRequest& request, lro::ListOperationsResponse& response) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, ProjectOf(request.name()));
  if (!request.filter().empty()) return NotImplementedYet("a filter in ListOperations");
  const std::string query = "operations " + project;
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(request.page_size(), request.page_token(), query));
  WorkQuery work_query;
  work_query.project = project;
  work_query.kinds = {WorkKind::kImport, WorkKind::kMerge, WorkKind::kExport};
  SBORA_ASSIGN_OR_RETURN(const std::string next, FillWorkPage(services_, page, std::move(work_query), OperationOf, *response.mutable_operations()));
  response.set_next_page_token(PageToken(next, query));
  return OkStatus();
}

Status OperationsServiceImpl::Wait(const lro::WaitOperationRequest& request, const Call& call, lro::Operation& operation) {
  SBORA_ASSIGN_OR_RETURN(Work work, Find(request.name()));
  MonotonicTime until = call.deadline - kAnswerMargin;
  if (request.has_timeout()) {
    const auto timeout = std::chrono::seconds(std::clamp<int64_t>(request.timeout().seconds(), 0, 3600)) +
                         std::chrono::nanoseconds(std::max(0, request.timeout().nanos()));
    until = std::min(until, services_.clock->Now() + timeout);
  }
  SBORA_ASSIGN_OR_RETURN(work, WaitForWork(services_, call, work.row.name, until));
  SBORA_ASSIGN_OR_RETURN(operation, OperationOf(work, services_.coordinator->Progress(work.row.uid)));
  return OkStatus();
}

grpc::Status OperationsServiceImpl::ListOperations(grpc::ServerContext* context, const lro::ListOperationsRequest* request,
                                                   lro::ListOperationsResponse* response) {
  return Unary(services_, *context, "google.longrunning.Operations/ListOperations",
               [&](const Call&) { return List(*request, *response); });
}

grpc::Status OperationsServiceImpl::GetOperation(grpc::ServerContext* context, const lro::GetOperationRequest* request,
                                                 lro::Operation* operation) {
  return Unary(services_, *context, "google.longrunning.Operations/GetOperation", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const Work work, Find(request->name()));
    SBORA_ASSIGN_OR_RETURN(*operation, OperationOf(work, services_.coordinator->Progress(work.row.uid)));
    return OkStatus();
  });
}

grpc::Status OperationsServiceImpl::DeleteOperation(grpc::ServerContext* context, const lro::DeleteOperationRequest* request,
                                                    google::protobuf::Empty*) {
  return Unary(services_, *context, "google.longrunning.Operations/DeleteOperation", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const Work work, Find(request->name()));
    return services_.coordinator->Delete(work.row.name, 0);
  });
}

grpc::Status OperationsServiceImpl::CancelOperation(grpc::ServerContext* context, const lro::CancelOperationRequest* request,
                                                    google::protobuf::Empty*) {
  return Unary(services_, *context, "google.longrunning.Operations/CancelOperation", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const Work work, Find(request->name()));
    return services_.coordinator->Cancel(work.row.name, 0).status();
  });
}

grpc::Status OperationsServiceImpl::WaitOperation(grpc::ServerContext* context, const lro::WaitOperationRequest* request,
                                                  lro::Operation* operation) {
  return Unary(services_, *context, "google.longrunning.Operations/WaitOperation",
               [&](const Call& call) { return Wait(*request, call, *operation); });
}

}  // namespace sbora::server
