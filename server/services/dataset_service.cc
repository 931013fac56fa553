#include "server/services/dataset_service.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/ids.h"
#include "common/status_macros.h"
#include "core/proto/stable_bytes.h"
#include "server/services/convert.h"
#include "server/services/dataset_check.h"
#include "server/services/requests.h"
#include "server/services/resource_calls.h"
#include "server/services/rpc.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr size_t kMaxDisplayName = 128;
constexpr const char* kFileName = "data.jsonl";

}  // namespace

Status DatasetServiceImpl::CheckFile(v1::Dataset& dataset) {
  SBORA_ASSIGN_OR_RETURN(const ObjectRow object, FindObject(services_, dataset.file().object()));
  SBORA_ASSIGN_OR_RETURN(const TempDirectory temp, TempDirectory::Create(services_.temp_directory, "dataset"));
  const std::filesystem::path file = temp.path() / kFileName;
  SBORA_RETURN_IF_ERROR(services_.objects->GetToFile(object.key, file).status());
  v1::DatasetFormat format = dataset.format();
  const Status checked = CheckDatasetForm(file, format, *dataset.mutable_validation_report());
  dataset.set_format(format);
  return checked;
}

Status DatasetServiceImpl::Create(const v1::CreateDatasetRequest& request, v1::Dataset& dataset) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  SBORA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  SBORA_ASSIGN_OR_RETURN(const std::string id, ResourceIdOrNew(request.dataset_id(), "dataset_id"));
  if (request.dataset().display_name().size() > kMaxDisplayName) {
    return InvalidArgument("DISPLAY_NAME_TOO_LONG", "dataset.display_name is longer than 128 bytes")
        .WithViolation("dataset.display_name", "at most 128 bytes");
  }
  if (!v1::DatasetFormat_IsValid(request.dataset().format())) {
    return InvalidArgument("BAD_ENUM", fmt::format("dataset.format={} is not known", static_cast<int>(request.dataset().format())))
        .WithViolation("dataset.format", "must be one of DatasetFormat");
  }
  const std::string hash = RequestHash("CreateDataset", request);
  if (!request.validate_only()) {
    // A repeat is answered before the file is read again: its upload may be gone by now.
    SBORA_ASSIGN_OR_RETURN(const auto earlier, services_.coordinator->FindCreated(project, request.request_id(), hash));
    if (earlier) {
      SBORA_ASSIGN_OR_RETURN(dataset, DatasetOf(*earlier));
      return OkStatus();
    }
  }
  ResourceRow row;
  row.kind = ResourceKind::kDataset;
  row.uid = NewUuid7();
  row.project = project;
  row.id = id;
  row.name = FullName(project, core::Collection::kDatasets, id);
  row.create_ms = ToUnixMillis(services_.clock->WallNow());
  SBORA_ASSIGN_OR_RETURN(const bool taken, services_.store().IsNameTaken(row.name));
  if (taken) return NameTaken(row.name);
  dataset.set_name(row.name);
  dataset.set_display_name(request.dataset().display_name());
  dataset.set_format(request.dataset().format());
  SBORA_ASSIGN_OR_RETURN(*dataset.mutable_file(), FileOfUpload(services_, project, request.upload(), kFileName, "upload"));
  SBORA_RETURN_IF_ERROR(CheckFile(dataset));
  if (request.validate_only()) return OkStatus();
  row.payload = core::StableBytes(dataset);
  bool existing = false;
  SBORA_ASSIGN_OR_RETURN(const ResourceRow stored,
                         services_.coordinator->CreateResource(
                             row, {AddObjectOwner{UidOfObject(dataset.file().object()), row.name}},
                             RequestRow{project, request.request_id(), hash, row.name, row.create_ms, row.uid}, &existing));
  SBORA_ASSIGN_OR_RETURN(dataset, DatasetOf(stored));
  return OkStatus();
}

grpc::Status DatasetServiceImpl::CreateDataset(grpc::ServerContext* context, const v1::CreateDatasetRequest* request,
                                               v1::Dataset* dataset) {
  return Unary(services_, *context, "sbora.v1.DatasetService/CreateDataset", [&](const Call&) { return Create(*request, *dataset); });
}

grpc::Status DatasetServiceImpl::GetDataset(grpc::ServerContext* context, const v1::GetDatasetRequest* request, v1::Dataset* dataset) {
  return Unary(services_, *context, "sbora.v1.DatasetService/GetDataset", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResource(services_, request->name(), core::Collection::kDatasets, "name"));
    SBORA_ASSIGN_OR_RETURN(*dataset, DatasetOf(row));
    return OkStatus();
  });
}

grpc::Status DatasetServiceImpl::ListDatasets(grpc::ServerContext* context, const v1::ListDatasetsRequest* request,
                                              v1::ListDatasetsResponse* response) {
  return Unary(services_, *context, "sbora.v1.DatasetService/ListDatasets", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(*response->mutable_next_page_token(),
                           ListResources(services_, ResourceKind::kDataset, request->parent(), request->page_size(), request->page_token(),
                                         DatasetOf, *response->mutable_datasets()));
    return OkStatus();
  });
}

grpc::Status DatasetServiceImpl::DeleteDataset(grpc::ServerContext* context, const v1::DeleteDatasetRequest* request,
                                               google::protobuf::Empty*) {
  return Unary(services_, *context, "sbora.v1.DatasetService/DeleteDataset", [&](const Call&) {
    return DeleteResourceCall(services_, request->name(), core::Collection::kDatasets, request->etag());
  });
}

}  // namespace sbora::server
