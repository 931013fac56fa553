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
/// S3 takes no more in one PUT, nor copies more in one call.
constexpr int64_t kMaxPresignedBytes = int64_t{5} << 30;
constexpr uint64_t kHashPieceBytes = 8 << 20;
/// How soon a call that waits for its turn notices that its caller is gone.
constexpr std::chrono::milliseconds kTurnSlice{250};

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

Status Incomplete(const UploadRow& row, int64_t received_bytes) {
  return FailedPrecondition("UPLOAD_INCOMPLETE",
                            fmt::format("upload {}: {} of {} bytes are here; go on with WriteUpload, or PUT the whole file to its URL",
                                        row.uid, received_bytes, row.size_bytes))
      .WithMetadata("received_bytes", std::to_string(received_bytes));
}

/// Where bytes that come by URL lie until they are sealed.
std::string StagingKey(const UploadRow& row) { return fmt::format("projects/{}/staging/{}", row.project, row.uid); }

/// A store that cannot presign is served by our own streams; any other trouble is the caller's to know.
StatusOr<std::string> PresignedOrEmpty(StatusOr<std::string> url) {
  if (!url.ok() && url.status().code() == StatusCode::kUnimplemented) return std::string();
  return url;
}

}  // namespace

StatusOr<FinishTurns::Turn> FinishTurns::Take(const std::string& uid, const Call& call) {
  MutexLock lock(mutex_);
  while (taken_.contains(uid)) {
    if (call.context->IsCancelled()) return Cancelled("CALL_CANCELLED", "the caller went away while another FinishUpload was at it");
    changed_.wait_for(lock, kTurnSlice);
  }
  taken_.insert(uid);
  return Turn(*this, uid);
}

void FinishTurns::Return(const std::string& uid) {
  {
    MutexLock lock(mutex_);
    taken_.erase(uid);
  }
  changed_.notify_all();
}

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
  std::string url;
  if (request.accept_presigned() && row.size_bytes <= kMaxPresignedBytes) {
    SBORA_ASSIGN_OR_RETURN(url, PresignedOrEmpty(services_.objects->PresignPut(StagingKey(row), kPresignedLife)));
  }
  std::vector<Mutation> mutations = {PutUpload{row}};
  // Whoever holds the URL may put bytes there until it ends, finished or not: the sweeper looks afterwards.
  if (!url.empty()) mutations.push_back(DoomKey{project, StagingKey(row), row.expire_ms});
  SBORA_RETURN_IF_ERROR(services_.coordinator->Write(std::move(mutations)));
  upload = UploadOf(row, 0);
  upload.set_presigned_put_url(url);
  return OkStatus();
}

Status TransferServiceImpl::SealPart(const UploadRow& row) {
  SBORA_ASSIGN_OR_RETURN(const UploadFiles::Sealed part, services_.uploads->Seal(row.uid, row.size_bytes));
  if (part.received_bytes < row.size_bytes) return Incomplete(row, part.received_bytes);
  if (part.received_bytes != row.size_bytes || part.sha256 != row.sha256) {
    services_.uploads->Remove(row.uid);
    return Mismatch(row, part.received_bytes, part.sha256);
  }
  return services_.objects->MoveFile(ObjectKey(row.project, row.uid), part.path).status();
}

Status TransferServiceImpl::SealStaged(const UploadRow& row) {
  const std::string key = ObjectKey(row.project, row.uid);
  // Checked is the copy: the URL's holder can still change what is staged.
  SBORA_RETURN_IF_ERROR(services_.objects->Copy(StagingKey(row), key));
  const Status checked = CheckObject(row, key);
  if (checked.code() == StatusCode::kDataLoss) services_.objects->Delete(key).IgnoreError("the sweeper deletes it with the upload");
  return checked;
}

Status TransferServiceImpl::CheckObject(const UploadRow& row, const std::string& key) {
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

Status TransferServiceImpl::Seal(const UploadRow& row) {
  if (row.size_bytes == 0 || services_.uploads->Received(row.uid) > 0) return SealPart(row);
  // Without a part file the bytes came through a presigned URL, or were sealed by a server that died before it said so.
  const Status staged = SealStaged(row);
  if (staged.code() != StatusCode::kNotFound) return staged;
  const Status sealed = CheckObject(row, ObjectKey(row.project, row.uid));
  return sealed.code() != StatusCode::kNotFound ? sealed : Incomplete(row, 0);
}

Status TransferServiceImpl::Finish(const v1::FinishUploadRequest& request, const Call& call, v1::Upload& upload) {
  SBORA_ASSIGN_OR_RETURN(UploadRow row, FindUpload(services_, request.name()));
  if (!row.finished) {
    SBORA_ASSIGN_OR_RETURN(const FinishTurns::Turn turn, finish_turns_.Take(row.uid, call));
    SBORA_ASSIGN_OR_RETURN(row, FindUpload(services_, request.name()));  // the turn before may have finished it
    if (!row.finished) SBORA_RETURN_IF_ERROR(SealAndStore(row));
  }
  upload = UploadOf(row, row.size_bytes);
  return OkStatus();
}

Status TransferServiceImpl::SealAndStore(UploadRow& row) {
  SBORA_RETURN_IF_ERROR(Seal(row));
  row.finished = true;
  row.received_bytes = row.size_bytes;
  row.object_uid = row.uid;
  const ObjectRow object{row.project, row.uid, ObjectKey(row.project, row.uid), row.size_bytes, row.sha256,
                         ToUnixMillis(services_.clock->WallNow())};
  const Status stored = services_.coordinator->Write({InsertObject{object}, AddObjectOwner{row.uid, row.uid}, PutUpload{row}});
  if (stored.reason() == "UPLOAD_CLOSED") {  // swept while its bytes were sealed: no row leads to them
    services_.coordinator->Write({DoomKey{row.project, object.key, 0}}).IgnoreError("the first error is told");
  }
  SBORA_RETURN_IF_ERROR(stored);
  services_.uploads->Remove(row.uid);
  services_.objects->Delete(StagingKey(row)).IgnoreError("the sweeper deletes it after the URL's end");
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
  return Unary(services_, *context, "sbora.v1.TransferService/FinishUpload", [&](const Call& call) { return Finish(*request, call, *upload); });
}

grpc::Status TransferServiceImpl::GetDownload(grpc::ServerContext* context, const v1::GetDownloadRequest* request,
                                              v1::GetDownloadResponse* response) {
  return Unary(services_, *context, "sbora.v1.TransferService/GetDownload", [&](const Call&) -> Status {
    SBORA_ASSIGN_OR_RETURN(const ObjectRow row, FindObject(services_, request->object()));
    SBORA_ASSIGN_OR_RETURN(*response->mutable_presigned_get_url(),
                           PresignedOrEmpty(services_.objects->PresignGet(row.key, kPresignedLife)));
    return OkStatus();
  });
}

}  // namespace sbora::server
