#include "server/services/adapter_service.h"

#include <fmt/format.h>

#include "common/ids.h"
#include "common/status_macros.h"
#include "server/services/convert.h"
#include "server/services/requests.h"
#include "server/services/resource_calls.h"
#include "server/services/rpc.h"

namespace sbora::server {
namespace {

Status CheckFormat(v1::ExportFormat format) {
  if (format == v1::EXPORT_FORMAT_PEFT) return OkStatus();
  if (format == v1::EXPORT_FORMAT_PATCH) return NotImplementedYet("export as patch");
  if (format == v1::EXPORT_FORMAT_GGUF) return NotImplementedYet("export as GGUF");
  return InvalidArgument("BAD_EXPORT_FORMAT", fmt::format("format={} is not known", static_cast<int>(format)))
      .WithViolation("format", "must be EXPORT_FORMAT_PEFT");
}

}  // namespace

StatusOr<bool> AdapterServiceImpl::Repeated(const std::string& project, const std::string& request_id,
                                            const std::string& request_hash, google::longrunning::Operation& operation) {
  SBORA_ASSIGN_OR_RETURN(const auto earlier, FindRepeat(services_, project, request_id, request_hash));
  if (!earlier) return false;
  SBORA_ASSIGN_OR_RETURN(operation, OperationOf(*earlier, services_.coordinator->Progress(earlier->row.uid)));
  return true;
}

Status AdapterServiceImpl::SubmitOperation(WorkKind kind, const std::string& project, const worker::v1::Task& task,
                                           std::vector<std::string> uses, const std::string& request_id,
                                           const std::string& request_hash, bool validate_only,
                                           google::longrunning::Operation& operation) {
  SubmitRequest submit;
  submit.kind = kind;
  submit.project = project;
  submit.uid = NewUuid7();
  submit.id = submit.uid;
  submit.name = OperationName(project, submit.uid);
  submit.validated = true;
  v1::AdapterOperationMetadata metadata;
  metadata.set_adapter(uses.front());
  if (validate_only) {
    operation.mutable_metadata()->PackFrom(metadata);
    return OkStatus();
  }
  submit.uses = std::move(uses);
  submit.payload = {Serialize(metadata), Serialize(task)};
  submit.request_id = request_id;
  submit.request_hash = request_hash;
  SBORA_ASSIGN_OR_RETURN(const Work work, services_.coordinator->Submit(std::move(submit)));
  SBORA_ASSIGN_OR_RETURN(operation, OperationOf(work, services_.coordinator->Progress(work.row.uid)));
  return OkStatus();
}

Status AdapterServiceImpl::Export(const v1::ExportAdapterRequest& request, google::longrunning::Operation& operation) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName name, core::ParseName(request.name(), core::Collection::kAdapters, "name"));
  const std::string hash = RequestHash("ExportAdapter", request);
  SBORA_ASSIGN_OR_RETURN(const bool repeated, Repeated(name.project, request.request_id(), hash, operation));
  if (repeated) return OkStatus();
  SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResource(services_, request.name(), core::Collection::kAdapters, "name"));
  SBORA_RETURN_IF_ERROR(CheckFormat(request.format()));
  SBORA_ASSIGN_OR_RETURN(const v1::Adapter adapter, AdapterOf(row));
  worker::v1::Task task;
  worker::v1::InputGroup& group = *task.add_inputs();
  group.set_name("adapter");
  *group.mutable_files() = adapter.files();
  task.mutable_export_()->set_format(request.format());
  return SubmitOperation(WorkKind::kExport, row.project, task, {row.name}, request.request_id(), hash,
                         request.validate_only(), operation);
}

Status AdapterServiceImpl::Merge(const v1::MergeAdaptersRequest& request, google::longrunning::Operation& operation) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  const std::string hash = RequestHash("MergeAdapters", request);
  SBORA_ASSIGN_OR_RETURN(const bool repeated, Repeated(project, request.request_id(), hash, operation));
  if (repeated) return OkStatus();
  if (request.adapters().empty()) return Required("adapters");
  if (request.adapters_size() > 1) return NotImplementedYet("merging several adapters");
  SBORA_ASSIGN_OR_RETURN(const ResourceRow row,
                         FindResourceOrId(services_, request.adapters(0), core::Collection::kAdapters, project, "adapters[0]"));
  SBORA_ASSIGN_OR_RETURN(const v1::Adapter adapter, AdapterOf(row));
  SBORA_ASSIGN_OR_RETURN(const ResourceRow model_row, FindResource(services_, adapter.model(), core::Collection::kModels, "adapters[0]"));
  SBORA_ASSIGN_OR_RETURN(const v1::Model model, ModelOf(model_row));
  // Another model may have been imported under the base's name.
  if (adapter.base_hash() != model.base_hash()) return BaseMismatch(row.name, adapter, model);
  worker::v1::Task task;
  worker::v1::InputGroup& base = *task.add_inputs();
  base.set_name("model");
  *base.mutable_files() = model.files();
  worker::v1::InputGroup& group = *task.add_inputs();
  group.set_name("adapter");
  *group.mutable_files() = adapter.files();
  task.mutable_merge()->set_base_hash(adapter.base_hash());
  return SubmitOperation(WorkKind::kMerge, project, task, {row.name, model_row.name}, request.request_id(), hash,
                         request.validate_only(), operation);
}

grpc::Status AdapterServiceImpl::GetAdapter(grpc::ServerContext* context, const v1::GetAdapterRequest* request, v1::Adapter* adapter) {
  return Unary(services_, *context, "sbora.v1.AdapterService/GetAdapter", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResource(services_, request->name(), core::Collection::kAdapters, "name"));
    SBORA_ASSIGN_OR_RETURN(*adapter, AdapterOf(row));
    return OkStatus();
  });
}

grpc::Status AdapterServiceImpl::ListAdapters(grpc::ServerContext* context, const v1::ListAdaptersRequest* request,
                                              v1::ListAdaptersResponse* response) {
  return Unary(services_, *context, "sbora.v1.AdapterService/ListAdapters", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(*response->mutable_next_page_token(),
                           ListResources(services_, ResourceKind::kAdapter, request->parent(), request->page_size(), request->page_token(),
                                         AdapterOf, *response->mutable_adapters()));
    return OkStatus();
  });
}

grpc::Status AdapterServiceImpl::DeleteAdapter(grpc::ServerContext* context, const v1::DeleteAdapterRequest* request,
                                               google::protobuf::Empty*) {
  return Unary(services_, *context, "sbora.v1.AdapterService/DeleteAdapter", [&](const Call&) {
    return DeleteResourceCall(services_, request->name(), core::Collection::kAdapters, request->etag());
  });
}

grpc::Status AdapterServiceImpl::ExportAdapter(grpc::ServerContext* context, const v1::ExportAdapterRequest* request,
                                               google::longrunning::Operation* operation) {
  return Unary(services_, *context, "sbora.v1.AdapterService/ExportAdapter", [&](const Call&) { return Export(*request, *operation); });
}

grpc::Status AdapterServiceImpl::MergeAdapters(grpc::ServerContext* context, const v1::MergeAdaptersRequest* request,
                                               google::longrunning::Operation* operation) {
  return Unary(services_, *context, "sbora.v1.AdapterService/MergeAdapters", [&](const Call&) { return Merge(*request, *operation); });
}

}  // namespace sbora::server
