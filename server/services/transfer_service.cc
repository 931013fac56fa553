#include "server/services/transfer_service.h"

#include <fmt/format.h>

#include "common/ids.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "server/services/convert.h"
#include "server/services/requests.h"
#include "server/services/rpc.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr int64_t kMaxUploadBytes = int64_t{1} << 40;
constexpr std::chrono::hours kUploadLife{24};
constexpr std::chrono::hours kPresignedLife{1};
constexpr uint64_t kHashPieceBytes = 8 << 20;

Status CheckCreate(const v1::CreateUploadRequest& request) {
  Status bad = InvalidArgument("INVALID_UPLOAD", "the upload cannot be made; see the field violations");
  if (request.size_bytes() < 0 || request.size_bytes() > kMaxUploadBytes) {
    bad = bad.WithViolation("size_bytes", fmt::format("{} is outside [0, {}] (1 TiB)", request.size_bytes(), kMaxUploadBytes));
  }
  if (!IsSha256Hex(request.sha256())) bad = bad.WithViolation("sha256", "must be 64 lower-case hex characters");
  return bad.violations().empty() ? OkStatus() : bad;
}

Status Mismatch(const UploadRow& row, int64_t size_bytes, const std::string& sha256) {
  return DataLoss("HASH_MISMATCH", fmt::format("upload {}: {} bytes with SHA-256 {} were announced, {} bytes with {} arrived; upload again",
                                               row.uid, row.size_bytes, row.sha256, size_bytes, sha256));
}

}  // namespace

StatusOr<UploadRow> FindUpload(const ServiceContext& services, const std::string& name) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, core::Collection::kUploads, "name"));
  SBORA_ASSIGN_OR_RETURN(UploadRow row, services.store().GetUpload(parsed.id));
  if (row.project == parsed.project) return row;
  return NotFound("UPLOAD_NOT_FOUND", fmt::format("{} does not exist", name)).WithMetadata("resource", name);
}

Status TransferServiceImpl::Create(const v1::CreateUploadRequest& request, v1::Upload& upload) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  SBORA_RETURN_IF_ERROR(CheckCreate(request));
  UploadRow row;
  row.project = project;
  row.uid = NewUuid7();
  row.size_bytes = request.size_bytes();
  row.sha256 = request.sha256();
  row.create_ms = ToUnixMillis(services_.clock->WallNow());
  row.expire_ms = row.create_ms + std::chrono::duration_cast<std::chrono::milliseconds>(kUploadLife).count();
  SBORA_RETURN_IF_ERROR(services_.coordinator->Write({PutUpload{row}}));
  upload = UploadOf(row, 0);
  if (!request.accept_presigned()) return OkStatus();
  const StatusOr<std::string> url = services_.objects->PresignPut(ObjectKey(project, row.uid), kPresignedLife);
  // A store that cannot presign is served by WriteUpload; any other trouble is the caller's to know.
  if (url.ok()) upload.set_presigned_put_url(*url);
  return !url.ok() && url.status().code() != StatusCode::kUnimplemented ? url.status() : OkStatus();
}

Status TransferServiceImpl::SealPart(const UploadRow& row) {
  SBORA_ASSIGN_OR_RETURN(const std::filesystem::path part, services_.uploads->Seal(row.uid, row.size_bytes));
  SBORA_ASSIGN_OR_RETURN(const FileDigest digest, DigestFile(part));
  if (digest.size_bytes < row.size_bytes) {
    return FailedPrecondition("UPLOAD_INCOMPLETE", fmt::format("upload {}: {} of {} bytes are here; go on with WriteUpload", row.uid,
                                                               digest.size_bytes, row.size_bytes))
        .WithMetadata("received_bytes", std::to_string(digest.size_bytes));
  }
  if (digest.size_bytes != row.size_bytes || digest.sha256 != row.sha256) {
    services_.uploads->Remove(row.uid);
    return Mismatch(row, digest.size_bytes, digest.sha256);
  }
  const MonotonicTime start = services_.clock->Now();
  const StatusOr<uint64_t> put = services_.objects->PutFile(ObjectKey(row.project, row.uid), part);
  services_.metrics->ObserveObjectStore("put", put.ok(), services_.clock->Now() - start);
  return put.ok() ? OkStatus() : put.status();
}

Status TransferServiceImpl::CheckPresigned(const UploadRow& row) {
  const std::string key = ObjectKey(row.project, row.uid);
  SBORA_ASSIGN_OR_RETURN(const ObjectInfo info, services_.objects->Head(key));
  if (static_cast<int64_t>(info.size_bytes) != row.size_bytes) return Mismatch(row, static_cast<int64_t>(info.size_bytes), "?");
  Sha256 hash;
  for (uint64_t offset = 0; offset < info.size_bytes; offset += kHashPieceBytes) {
    SBORA_ASSIGN_OR_RETURN(const std::string piece, services_.objects->GetRange(key, offset, kHashPieceBytes));
    hash.Update(piece);
  }
  const std::string sha256 = hash.FinishHex();
  return sha256 == row.sha256 ? OkStatus() : Mismatch(row, row.size_bytes, sha256);
}

Status TransferServiceImpl::Finish(const v1::FinishUploadRequest& request, v1::Upload& upload) {
  SBORA_ASSIGN_OR_RETURN(UploadRow row, FindUpload(services_, request.name()));
  if (!row.finished) {
    // Without a part file the bytes may have come through a presigned URL.
    const bool by_url = services_.uploads->Received(row.uid) == 0 && row.size_bytes > 0 &&
                        services_.objects->Head(ObjectKey(row.project, row.uid)).ok();
    Status written = by_url ? CheckPresigned(row) : SealPart(row);
    row.finished = true;
    row.received_bytes = row.size_bytes;
    row.object_uid = row.uid;
    if (written.ok()) {
      const ObjectRow object{row.project, row.uid, ObjectKey(row.project, row.uid), row.size_bytes, row.sha256,
                             ToUnixMillis(services_.clock->WallNow())};
      written = services_.coordinator->Write({InsertObject{object}, AddObjectOwner{row.uid, row.uid}, PutUpload{row}});
    }
    if (!written.ok()) {
      // Another FinishUpload of the same upload may have been quicker, and have taken the part file away.
      const StatusOr<UploadRow> now = services_.store().GetUpload(row.uid);
      if (!now.ok() || !now->finished) return written;
    }
    services_.uploads->Remove(row.uid);
  }
  upload = UploadOf(row, row.size_bytes);
  return OkStatus();
}

grpc::Status TransferServiceImpl::CreateUpload(grpc::ServerContext* context, const v1::CreateUploadRequest* request,
                                               v1::Upload* upload) {
  return Unary(services_, *context, "sbora.v1.TransferService/CreateUpload", [&](const Call&) { return Create(*request, *upload); });
}

grpc::Status TransferServiceImpl::GetUpload(grpc::ServerContext* context, const v1::GetUploadRequest* request, v1::Upload* upload) {
  return Unary(services_, *context, "sbora.v1.TransferService/GetUpload", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const UploadRow row, FindUpload(services_, request->name()));
    *upload = UploadOf(row, services_.uploads->Received(row.uid));
    return OkStatus();
  });
}

grpc::Status TransferServiceImpl::FinishUpload(grpc::ServerContext* context, const v1::FinishUploadRequest* request,
                                               v1::Upload* upload) {
  return Unary(services_, *context, "sbora.v1.TransferService/FinishUpload", [&](const Call&) { return Finish(*request, *upload); });
}

grpc::Status TransferServiceImpl::GetDownload(grpc::ServerContext* context, const v1::GetDownloadRequest* request,
                                              v1::GetDownloadResponse* response) {
  return Unary(services_, *context, "sbora.v1.TransferService/GetDownload", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const ObjectRow row, FindObject(services_, request->object()));
    const StatusOr<std::string> url = services_.objects->PresignGet(row.key, kPresignedLife);
    if (url.ok()) response->set_presigned_get_url(*url);
    return !url.ok() && url.status().code() != StatusCode::kUnimplemented ? url.status() : OkStatus();
  });
}

}  // namespace sbora::server
