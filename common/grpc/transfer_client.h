/// Moves files between this machine and the service's object store: TransferService, or presigned URLs where the
/// coordinator hands them out. Breaks are taken up again at the last byte; every file is checked by size and SHA-256.
///
///     TransferClient transfer(channel, {});
///     SBORA_ASSIGN_OR_RETURN(v1::File file, transfer.Upload("projects/default", path, "config.json", stop));
///     SBORA_RETURN_IF_ERROR(transfer.Download(file, "/cache/config.json", stop));
///
/// Blocking. Thread-safe: calls are independent of each other.
#pragma once

#include <grpcpp/channel.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "common/grpc/backoff.h"
#include "common/grpc/http_transfer.h"
#include "common/sha256.h"
#include "common/status.h"
#include "sbora/v1/common.pb.h"
#include "sbora/v1/transfer.grpc.pb.h"

namespace sbora {

struct TransferOptions {
  /// Waits between breaks; they are granted anew whenever bytes have moved.
  BackoffOptions backoff = {};
  /// Ask for presigned URLs where the store can give them.
  bool accept_presigned = true;
  HttpOptions http = {};
  /// Deadline of one unary call; of FinishUpload, during which the server may read the whole file, ten times as long.
  std::chrono::milliseconds call_deadline{60'000};
};

class TransferClient {
 public:
  /// Bytes moved so far and in all; called from the calling thread of Upload or Download, often: keep it cheap.
  using Progress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

  TransferClient(std::shared_ptr<grpc::Channel> channel, TransferOptions options);

  /// Uploads the file at `path` under `parent` ("projects/{p}"); the answer has `path` = `name`, size, SHA-256 and
  /// `object`. Errors: those of the calls; Cancelled STOPPED; DataLoss HASH_MISMATCH or FILE_SHRANK when the file
  /// changed meanwhile; Unavailable UPLOAD_STALLED when the server takes no more; Internal UPLOAD_WITHOUT_OBJECT.
  StatusOr<v1::File> Upload(const std::string& parent, const std::filesystem::path& path, const std::string& name,
                            const std::stop_token& stop, const Progress& progress = {});

  /// The middle of Upload, for callers that make and finish uploads themselves: the bytes of `path` go to `upload`, from
  /// received_bytes on. Errors: as Upload's, but for HASH_MISMATCH and UPLOAD_WITHOUT_OBJECT.
  Status SendBytes(const v1::Upload& upload, const std::filesystem::path& path, const std::stop_token& stop,
                   const Progress& progress);

  /// Puts `file.object` at `destination`: written beside it (".part", taken up again if it is there), checked, fsynced,
  /// renamed. Never leaves a file with other bytes than `file.sha256` says: DataLoss HASH_MISMATCH, and the part goes.
  /// Two downloads to one destination at once are the caller's mistake.
  Status Download(const v1::File& file, const std::filesystem::path& destination, const std::stop_token& stop,
                  const Progress& progress = {});

 private:
  StatusOr<v1::Upload> CreateUpload(const std::string& parent, const FileDigest& digest, const std::stop_token& stop);
  StatusOr<int64_t> SendStream(const v1::Upload& upload, int64_t offset, const std::filesystem::path& path,
                               const std::stop_token& stop, const Progress& progress);
  Status DownloadPart(const v1::File& file, const std::filesystem::path& part, bool* resumed,
                      const std::stop_token& stop, const Progress& progress);
  Status Receive(const std::string& object, int64_t offset, const std::stop_token& stop,
                 const std::function<Status(std::string_view)>& sink);

  const TransferOptions options_;
  const std::unique_ptr<v1::TransferService::Stub> stub_;
};

}  // namespace sbora
