// The two streams of TransferService. Reactions of gRPC only hand over to the pool; at most one pool task of a stream
// is under way at a time, so its members need no lock.
#include <fmt/format.h>

#include <memory>

#include "common/status_macros.h"
#include "server/services/convert.h"
#include "server/services/rpc.h"
#include "server/services/stored_files.h"
#include "server/services/transfer_service.h"

namespace sbora::server {
namespace {

constexpr size_t kMaxChunkBytes = 1 << 20;
constexpr std::string_view kWriteMethod = "sbora.v1.TransferService/WriteUpload";
constexpr std::string_view kDownloadMethod = "sbora.v1.TransferService/Download";

class WriteCall final : public grpc::ServerReadReactor<v1::WriteUploadRequest> {
 public:
  WriteCall(const ServiceContext& services, const grpc::CallbackServerContext& context, v1::Upload* upload)
      : services_(services), upload_(upload), start_(services.clock->Now()) {
    const Status allowed = BeginCall(services_, context, kWriteMethod);
    if (allowed.ok()) {
      StartRead(&request_);
    } else {
      Finish(FinishCall(services_, kWriteMethod, start_, allowed));
    }
  }

  void OnReadDone(bool ok) override {
    services_.transfer_pool->Submit([this, ok] { ok ? TakeChunk() : TakeEnd(); });
  }
  void OnDone() override { delete this; }

 private:
  void End(const Status& status) { Finish(FinishCall(services_, kWriteMethod, start_, status)); }

  Status OpenUpload() {
    SBORA_ASSIGN_OR_RETURN(row_, FindUpload(services_, request_.name()));
    if (row_.finished) {
      return FailedPrecondition("UPLOAD_FINISHED", fmt::format("{} is finished and takes no more bytes", request_.name()));
    }
    SBORA_ASSIGN_OR_RETURN(writer_, services_.uploads->Open(row_.uid, row_.size_bytes));
    return OkStatus();
  }

  Status Take() {
    if (request_.data().size() > kMaxChunkBytes) {
      return InvalidArgument("CHUNK_TOO_LARGE", fmt::format("a chunk of {} bytes exceeds {}", request_.data().size(), kMaxChunkBytes))
          .WithViolation("data", "at most 1 MiB");
    }
    if (writer_ == nullptr) SBORA_RETURN_IF_ERROR(OpenUpload());
    return writer_->Append(request_.offset(), request_.data());
  }

  void TakeChunk() {
    const Status taken = Guarded(kWriteMethod, [this] { return Take(); });
    if (taken.ok()) return StartRead(&request_);
    // What came before the bad chunk stays.
    if (writer_ != nullptr) writer_->Sync().IgnoreError("the first error is told");
    End(taken);
  }

  void TakeEnd() {
    if (writer_ == nullptr) return End(InvalidArgument("FIELD_REQUIRED", "the first message must carry the upload's name").WithViolation("name", "must be set"));
    const Status synced = Guarded(kWriteMethod, [this] { return writer_->Sync(); });
    if (synced.ok()) *upload_ = UploadOf(row_, writer_->received_bytes());
    End(synced);
  }

  const ServiceContext& services_;
  v1::Upload* const upload_;
  const MonotonicTime start_;
  v1::WriteUploadRequest request_;
  UploadRow row_;
  std::unique_ptr<UploadFiles::Writer> writer_;
};

class DownloadCall final : public grpc::ServerWriteReactor<v1::DownloadResponse> {
 public:
  DownloadCall(const ServiceContext& services, const grpc::CallbackServerContext& context, const v1::DownloadRequest& request)
      : services_(services), request_(request), start_(services.clock->Now()) {
    const Status allowed = BeginCall(services_, context, kDownloadMethod);
    if (allowed.ok()) {
      services_.transfer_pool->Submit([this] { Open(); });
    } else {
      End(allowed);
    }
  }

  void OnWriteDone(bool ok) override {
    services_.transfer_pool->Submit([this, ok] {
      ok ? SendNext() : End(Cancelled("CALL_CANCELLED", "the caller went away"));
    });
  }
  void OnDone() override { delete this; }

 private:
  void End(const Status& status) { Finish(FinishCall(services_, kDownloadMethod, start_, status)); }

  Status Find() {
    SBORA_ASSIGN_OR_RETURN(row_, FindObject(services_, request_.object()));
    if (request_.offset() < 0 || request_.offset() > row_.size_bytes) {
      return OutOfRange("BAD_OFFSET", fmt::format("offset {} is outside [0, {}]", request_.offset(), row_.size_bytes));
    }
    offset_ = request_.offset();
    return OkStatus();
  }

  void Open() {
    const Status found = Guarded(kDownloadMethod, [this] { return Find(); });
    found.ok() ? SendNext() : End(found);
  }

  Status ReadPiece() {
    StatusOr<std::string> piece = services_.objects->GetRange(row_.key, static_cast<uint64_t>(offset_), kMaxChunkBytes);
    // The row says that there are bytes here: the store no longer has what was sealed.
    if (piece.status().code() == StatusCode::kOutOfRange) {
      return DataLoss("OBJECT_TRUNCATED", fmt::format("{} has {} bytes, and the object store has none from byte {} on; restore the store, or "
                                                      "upload again",
                                                      request_.object(), row_.size_bytes, offset_));
    }
    if (!piece.ok()) return piece.status();
    offset_ += static_cast<int64_t>(piece->size());
    response_.set_data(std::move(piece).value());
    return OkStatus();
  }

  void SendNext() {
    if (offset_ >= row_.size_bytes) return End(OkStatus());
    const Status read = Guarded(kDownloadMethod, [this] { return ReadPiece(); });
    read.ok() ? StartWrite(&response_) : End(read);
  }

  const ServiceContext& services_;
  const v1::DownloadRequest request_;
  const MonotonicTime start_;
  ObjectRow row_;
  int64_t offset_ = 0;
  v1::DownloadResponse response_;
};

}  // namespace

grpc::ServerReadReactor<v1::WriteUploadRequest>* TransferServiceImpl::WriteUpload(grpc::CallbackServerContext* context,
                                                                                  v1::Upload* upload) {
  return new WriteCall(services_, *context, upload);  // deletes itself in OnDone
}

grpc::ServerWriteReactor<v1::DownloadResponse>* TransferServiceImpl::Download(grpc::CallbackServerContext* context,
                                                                              const v1::DownloadRequest* request) {
  return new DownloadCall(services_, *context, *request);  // deletes itself in OnDone
}

}  // namespace sbora::server
