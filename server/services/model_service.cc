#include "server/services/model_service.h"

#include <fmt/format.h>

#include <set>

#include "common/ids.h"
#include "common/status_macros.h"
#include "core/proto/stable_bytes.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/convert.h"
#include "server/services/requests.h"
#include "server/services/resource_calls.h"
#include "server/services/rpc.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr int kMaxModelFiles = 1000;
constexpr size_t kMaxDisplayName = 128;

Status CheckFiles(const v1::ImportModelRequest& request) {
  Status bad = InvalidArgument("INVALID_MODEL_FILES", "the files cannot be a model; see the field violations");
  if (request.files().empty()) bad = bad.WithViolation("files", "at least one file: an HF folder's files or one GGUF file");
  if (request.files_size() > kMaxModelFiles) bad = bad.WithViolation("files", fmt::format("{} files exceed {}", request.files_size(), kMaxModelFiles));
  std::set<std::string> seen;
  for (int i = 0; i < request.files_size() && i < kMaxModelFiles; ++i) {
    const std::string field = fmt::format("files[{}].path", i);
    const Status name = CheckFileName(request.files(i).path(), field);
    if (!name.ok()) bad = bad.WithViolation(field, name.violations().front().description);
    if (!seen.insert(request.files(i).path()).second) bad = bad.WithViolation(field, fmt::format("\"{}\" is there twice", request.files(i).path()));
  }
  if (request.model().display_name().size() > kMaxDisplayName) bad = bad.WithViolation("model.display_name", "at most 128 bytes");
  return bad.violations().empty() ? OkStatus() : bad;
}

}  // namespace

Status ModelServiceImpl::Import(const v1::ImportModelRequest& request, google::longrunning::Operation& operation) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  SBORA_RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  if (!request.validate_only()) {
    SBORA_ASSIGN_OR_RETURN(const auto earlier,
                           FindRepeat(services_, project, request.request_id(), RequestHash("ImportModel", request)));
    if (earlier) {
      SBORA_ASSIGN_OR_RETURN(operation, OperationOf(*earlier, services_.coordinator->Progress(earlier->row.uid)));
      return OkStatus();
    }
  }
  SBORA_RETURN_IF_ERROR(CheckFiles(request));
  SBORA_ASSIGN_OR_RETURN(const std::string id, ResourceIdOrNew(request.model_id(), "model_id"));
  const std::string model_name = FullName(project, core::Collection::kModels, id);

  SubmitRequest submit;
  submit.kind = WorkKind::kImport;
  submit.project = project;
  submit.uid = NewUuid7();
  submit.id = submit.uid;
  submit.name = OperationName(project, submit.uid);
  submit.validated = true;
  submit.reserves = {model_name};
  submit.request_id = request.request_id();
  submit.request_hash = RequestHash("ImportModel", request);

  worker::v1::Task task;
  task.mutable_import();
  worker::v1::InputGroup& source = *task.add_inputs();
  source.set_name("source");
  for (int i = 0; i < request.files_size(); ++i) {
    SBORA_ASSIGN_OR_RETURN(v1::File file, FileOfUpload(services_, project, request.files(i).upload(), request.files(i).path(),
                                                       fmt::format("files[{}].upload", i)));
    submit.extra.push_back(AddObjectOwner{UidOfObject(file.object()), submit.uid});
    *source.add_files() = std::move(file);
  }
  v1::ImportModelMetadata metadata;
  metadata.set_model(model_name);
  metadata.set_display_name(request.model().display_name());
  submit.payload = {core::StableBytes(metadata), core::StableBytes(task)};
  if (request.validate_only()) {
    SBORA_ASSIGN_OR_RETURN(const bool taken, services_.store().IsNameTaken(model_name));
    if (taken) return NameTaken(model_name);
    operation.mutable_metadata()->PackFrom(metadata);
    return OkStatus();
  }
  SBORA_ASSIGN_OR_RETURN(const Work work, services_.coordinator->Submit(std::move(submit)));
  SBORA_ASSIGN_OR_RETURN(operation, OperationOf(work, ""));
  return OkStatus();
}

grpc::Status ModelServiceImpl::ImportModel(grpc::ServerContext* context, const v1::ImportModelRequest* request,
                                           google::longrunning::Operation* operation) {
  return Unary(services_, *context, "sbora.v1.ModelService/ImportModel", [&](const Call&) { return Import(*request, *operation); });
}

grpc::Status ModelServiceImpl::GetModel(grpc::ServerContext* context, const v1::GetModelRequest* request, v1::Model* model) {
  return Unary(services_, *context, "sbora.v1.ModelService/GetModel", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const ResourceRow row, FindResource(services_, request->name(), core::Collection::kModels, "name"));
    SBORA_ASSIGN_OR_RETURN(*model, ModelOf(row));
    return OkStatus();
  });
}

grpc::Status ModelServiceImpl::ListModels(grpc::ServerContext* context, const v1::ListModelsRequest* request,
                                          v1::ListModelsResponse* response) {
  return Unary(services_, *context, "sbora.v1.ModelService/ListModels", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(*response->mutable_next_page_token(),
                           ListResources(services_, ResourceKind::kModel, request->parent(), request->page_size(), request->page_token(),
                                         ModelOf, *response->mutable_models()));
    return OkStatus();
  });
}

grpc::Status ModelServiceImpl::DeleteModel(grpc::ServerContext* context, const v1::DeleteModelRequest* request,
                                           google::protobuf::Empty*) {
  return Unary(services_, *context, "sbora.v1.ModelService/DeleteModel", [&](const Call&) {
    return DeleteResourceCall(services_, request->name(), core::Collection::kModels, request->etag());
  });
}

}  // namespace sbora::server
