#include "common/grpc/transfer_client.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/grpc/channel.h"
#include "common/grpc/status_convert.h"
#include "common/status_macros.h"

namespace sbora {
namespace {

constexpr int64_t kChunkBytes = 1024 * 1024;

/// True when the same transfer may go on later: what gRPC itself reports about broken connections, and UNAVAILABLE.
bool IsBreak(const Status& status) {
  if (IsRetryable(status.code()) || status.code() == StatusCode::kDeadlineExceeded) return true;
  if (!status.reason().starts_with("GRPC_")) return false;
  return status.code() == StatusCode::kUnknown || status.code() == StatusCode::kInternal ||
         status.code() == StatusCode::kCancelled;
}

constexpr int kFinishFactor = 10;

Status Stopped() { return Cancelled("STOPPED", "the transfer was stopped"); }

/// Cancels a call as soon as stop is requested, for as long as the object lives.
class CancelOnStop {
 public:
  CancelOnStop(grpc::ClientContext& context, const std::stop_token& stop)
      : callback_(stop, [&context] { context.TryCancel(); }) {}

 private:
  std::stop_callback<std::function<void()>> callback_;
};

/// A unary call with deadline, bounded retries and cancellation. `call` gets a fresh context each time.
Status CallWithRetry(const TransferOptions& options, const std::stop_token& stop,
                     const std::function<grpc::Status(grpc::ClientContext*)>& call, int deadline_factor = 1) {
  Backoff backoff(options.backoff);
  while (true) {
    if (stop.stop_requested()) return Stopped();
    grpc::ClientContext context;
    SetDeadline(context, options.call_deadline * deadline_factor);
    Status status;
    {
      const CancelOnStop cancel(context, stop);
      status = FromGrpc(call(&context));
    }
    if (status.ok()) return status;
    if (stop.stop_requested()) return Stopped();
    if (!IsBreak(status) || !backoff.Wait(SystemClock(), stop)) return status;
  }
}

/// Reads `size` bytes at `offset`. `transfer`: "upload" or "download", what to do again after FILE_SHRANK.
StatusOr<std::string> ReadAt(int fd, int64_t offset, int64_t size, const std::filesystem::path& path, std::string_view transfer) {
  std::string bytes(static_cast<size_t>(size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::pread(fd, bytes.data() + done, bytes.size() - done, offset + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FromErrno(errno, fmt::format("reading {}", path.string()));
    if (got == 0) {
      return DataLoss("FILE_SHRANK", fmt::format("{} got shorter while it was read: it ends before byte {}; {} it again once "
                                                 "nothing writes to it", path.string(), offset + size, transfer));
    }
    done += static_cast<size_t>(got);
  }
  return bytes;
}

}  // namespace

TransferClient::TransferClient(std::shared_ptr<grpc::Channel> channel, TransferOptions options)
    : options_(std::move(options)), stub_(v1::TransferService::NewStub(std::move(channel))) {}

StatusOr<v1::File> TransferClient::Upload(const std::string& parent, const std::filesystem::path& path,
                                          const std::string& name, const std::stop_token& stop,
                                          const Progress& progress) {
  SBORA_ASSIGN_OR_RETURN(const FileDigest digest, DigestFile(path));
  SBORA_ASSIGN_OR_RETURN(const v1::Upload upload, CreateUpload(parent, digest, stop));
  const std::string what = fmt::format("uploading {}", name);
  if (const Status sent = SendBytes(upload, path, stop, progress); !sent.ok()) return sent.WithContext(what);
  v1::FinishUploadRequest request;
  request.set_name(upload.name());
  v1::Upload finished;
  const Status status = CallWithRetry(options_, stop, [&](grpc::ClientContext* context) {
    return stub_->FinishUpload(context, request, &finished);
  }, kFinishFactor);
  if (!status.ok()) return status.WithContext(what);
  if (finished.object().empty()) {
    return Internal("UPLOAD_WITHOUT_OBJECT", fmt::format("{}: the server sealed {} without an object", what, upload.name()));
  }
  v1::File file;
  file.set_path(name);
  file.set_size_bytes(digest.size_bytes);
  file.set_sha256(digest.sha256);
  file.set_object(finished.object());
  return file;
}

StatusOr<v1::Upload> TransferClient::CreateUpload(const std::string& parent, const FileDigest& digest,
                                                  const std::stop_token& stop) {
  v1::CreateUploadRequest request;
  request.set_parent(parent);
  request.set_size_bytes(digest.size_bytes);
  request.set_sha256(digest.sha256);
  request.set_accept_presigned(options_.accept_presigned);
  v1::Upload upload;
  // A repeat after a lost answer makes a second upload; the server sweeps the one nobody finished.
  SBORA_RETURN_IF_ERROR(CallWithRetry(options_, stop, [&](grpc::ClientContext* context) {
    return stub_->CreateUpload(context, request, &upload);
  }));
  return upload;
}

Status TransferClient::SendBytes(const v1::Upload& upload, const std::filesystem::path& path,
                                 const std::stop_token& stop, const Progress& progress) {
  Backoff backoff(options_.backoff);
  const int64_t total = upload.size_bytes();
  if (!upload.presigned_put_url().empty()) {
    while (true) {
      const Status status = HttpPutFile(upload.presigned_put_url(), path, total, options_.http, stop,
                                        [&](int64_t done) { if (progress) progress(done, total); });
      if (status.ok() || !IsRetryable(status.code()) || !backoff.Wait(SystemClock(), stop)) return status;
    }
  }
  int64_t offset = upload.received_bytes();
  while (offset < total) {
    const auto received = SendStream(upload, offset, path, stop, progress);
    if (received.ok()) {
      if (*received > offset) backoff.Reset();
      offset = *received;
      if (offset >= total) break;
    } else if (!IsBreak(received.status()) && received.status().code() != StatusCode::kOutOfRange) {
      return received.status();
    }
    if (stop.stop_requested()) return Stopped();
    if (!backoff.Wait(SystemClock(), stop)) {
      return received.ok() ? Unavailable("UPLOAD_STALLED", fmt::format("the server took {} of {} bytes and no more; "
                                                                     "its log may say why", offset, total))
                           : received.status();
    }
    v1::GetUploadRequest request;
    request.set_name(upload.name());
    v1::Upload now;
    SBORA_RETURN_IF_ERROR(CallWithRetry(options_, stop, [&](grpc::ClientContext* context) {
      return stub_->GetUpload(context, request, &now);
    }));
    if (now.received_bytes() > offset) backoff.Reset();
    offset = now.received_bytes();
  }
  if (stop.stop_requested()) return Stopped();
  return OkStatus();
}

StatusOr<int64_t> TransferClient::SendStream(const v1::Upload& upload, int64_t offset, const std::filesystem::path& path,
                                             const std::stop_token& stop, const Progress& progress) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", path.string()));
  grpc::ClientContext context;
  v1::Upload answer;
  const CancelOnStop cancel(context, stop);
  const auto writer = stub_->WriteUpload(&context, &answer);
  const int64_t total = upload.size_bytes();
  Status read_error;
  v1::WriteUploadRequest request;
  request.set_name(upload.name());
  while (offset < total) {
    auto bytes = ReadAt(fd.get(), offset, std::min(kChunkBytes, total - offset), path, "upload");
    if (!bytes.ok()) {
      read_error = bytes.status();
      context.TryCancel();
      break;
    }
    request.set_offset(offset);
    offset += static_cast<int64_t>(bytes->size());
    request.set_data(*std::move(bytes));
    if (!writer->Write(request)) break;  // Finish tells why
    if (progress) progress(offset, total);
    request.clear_name();
  }
  writer->WritesDone();
  const Status status = FromGrpc(writer->Finish());
  if (!read_error.ok()) return read_error;
  if (stop.stop_requested()) return Stopped();
  if (!status.ok()) return status;
  return answer.received_bytes();
}

Status TransferClient::Download(const v1::File& file, const std::filesystem::path& destination,
                                const std::stop_token& stop, const Progress& progress) {
  const std::filesystem::path part = destination.string() + ".part";
  bool resumed = false;
  Status status = DownloadPart(file, part, &resumed, stop, progress);
  // What an earlier run left may have been the wrong part: once more from the start.
  if (status.code() == StatusCode::kDataLoss && resumed) status = DownloadPart(file, part, &resumed, stop, progress);
  if (!status.ok()) return status.WithContext(fmt::format("downloading {}", file.path()));
  std::error_code error;
  std::filesystem::rename(part, destination, error);
  if (error) return FromErrno(error.value(), fmt::format("renaming {}", part.string()));
  return SyncDirectory(destination.parent_path());
}

Status TransferClient::DownloadPart(const v1::File& file, const std::filesystem::path& part, bool* resumed,
                                    const std::stop_token& stop, const Progress& progress) {
  const UniqueFd fd(::open(part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", part.string()));
  const int64_t total = file.size_bytes();
  Sha256 hash;
  int64_t offset = std::max<int64_t>(0, ::lseek(fd.get(), 0, SEEK_END));
  if (offset > total) offset = 0;
  for (int64_t at = 0; at < offset;) {
    SBORA_ASSIGN_OR_RETURN(const std::string bytes, ReadAt(fd.get(), at, std::min(kChunkBytes, offset - at), part, "download"));
    hash.Update(bytes);
    at += static_cast<int64_t>(bytes.size());
  }
  *resumed = offset > 0;
  if (::ftruncate(fd.get(), offset) != 0) return FromErrno(errno, fmt::format("truncating {}", part.string()));
  ::lseek(fd.get(), offset, SEEK_SET);

  Backoff backoff(options_.backoff);
  while (offset < total) {
    const int64_t before = offset;
    const Status status = Receive(file.object(), offset, stop, [&](std::string_view bytes) -> Status {
      if (static_cast<int64_t>(bytes.size()) > total - offset) {
        return DataLoss("SIZE_MISMATCH", fmt::format("{} has more than the {} bytes listed", file.path(), total));
      }
      SBORA_RETURN_IF_ERROR(WriteAll(fd.get(), bytes, part.string()));
      hash.Update(bytes);
      offset += static_cast<int64_t>(bytes.size());
      if (progress) progress(offset, total);
      return OkStatus();
    });
    if (stop.stop_requested()) return Stopped();
    if (status.ok() && offset < total && offset == before) {
      ::unlink(part.c_str());
      return DataLoss("SIZE_MISMATCH", fmt::format("{} ended after {} of {} bytes", file.path(), offset, total));
    }
    if (!status.ok()) {
      if (status.code() == StatusCode::kDataLoss) ::unlink(part.c_str());
      if (offset > before) backoff.Reset();
      if (!IsBreak(status) || !backoff.Wait(SystemClock(), stop)) return status;
    }
  }
  if (const std::string sha256 = hash.FinishHex(); sha256 != file.sha256()) {
    ::unlink(part.c_str());
    return DataLoss("HASH_MISMATCH", fmt::format("{} has SHA-256 {}, listed is {}", file.path(), sha256, file.sha256()));
  }
  if (::fsync(fd.get()) != 0) return FromErrno(errno, fmt::format("fsync of {}", part.string()));
  return OkStatus();
}

Status TransferClient::Receive(const std::string& object, int64_t offset, const std::stop_token& stop,
                               const std::function<Status(std::string_view)>& sink) {
  if (options_.accept_presigned) {
    v1::GetDownloadRequest request;
    request.set_object(object);
    v1::GetDownloadResponse response;
    SBORA_RETURN_IF_ERROR(CallWithRetry(options_, stop, [&](grpc::ClientContext* context) {
      return stub_->GetDownload(context, request, &response);
    }));
    if (!response.presigned_get_url().empty()) {
      return HttpGet(response.presigned_get_url(), offset, options_.http, stop, sink);
    }
  }
  grpc::ClientContext context;
  const CancelOnStop cancel(context, stop);
  v1::DownloadRequest request;
  request.set_object(object);
  request.set_offset(offset);
  const auto reader = stub_->Download(&context, request);
  v1::DownloadResponse response;
  Status written;
  while (written.ok() && reader->Read(&response)) {
    written = sink(response.data());
  }
  if (!written.ok()) context.TryCancel();
  const Status status = FromGrpc(reader->Finish());
  return written.ok() ? status : written;
}

}  // namespace sbora
