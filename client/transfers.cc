// Client::Upload and Client::Pull.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <system_error>
#include <utility>

#include "client/client_call.h"
#include "client/sbora_client.h"
#include "common/file.h"
#include "common/grpc/transfer_client.h"
#include "common/sha256.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

constexpr const char* kManifestFile = "manifest.json";

TransferOptions TransferOptionsOf(const ClientOptions& options) {
  TransferOptions transfer;
  transfer.backoff = options.transfer_retry;
  transfer.call_deadline = options.call_timeout;
  return transfer;
}

/// A plain file name: what the server sends must not lead out of the folder.
bool IsPlainName(std::string_view name) {
  const bool known = std::all_of(name.begin(), name.end(),
                                 [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '_' || c == '-'; });
  return known && !name.empty() && name.size() <= 255 && name.front() != '.';
}

Status CheckFiles(const google::protobuf::RepeatedPtrField<v1::File>& files, const std::string& manifest_sha256,
                  const std::filesystem::path& directory) {
  std::set<std::string> names;
  for (const v1::File& file : files) {
    if (!IsPlainName(file.path()) || !names.insert(file.path()).second) {
      return DataLoss("BAD_FILE_NAME",
                      fmt::format("the server names a file \"{}\", which is no plain, single file name", file.path()));
    }
    if (!IsSha256Hex(file.sha256())) {
      return DataLoss("BAD_DIGEST", fmt::format("the server gives \"{}\" as SHA-256 of {}, which is none",
                                                file.sha256(), file.path()));
    }
    if (file.path() == kManifestFile && !manifest_sha256.empty() && file.sha256() != manifest_sha256) {
      return DataLoss("HASH_MISMATCH",
                      fmt::format("manifest.json has SHA-256 {}, committed was {}", file.sha256(), manifest_sha256));
    }
  }
  if (files.empty()) {
    return NotFound("NO_FILES", fmt::format("nothing to put in {}: the server lists no files", directory.string()));
  }
  return OkStatus();
}

/// Puts `filled` in the place of `directory`; what was there goes only after the new one stands.
Status SwapIn(const std::filesystem::path& filled, const std::filesystem::path& directory,
              const std::filesystem::path& spare) {
  std::error_code error;
  if (std::filesystem::exists(directory, error)) {
    std::filesystem::rename(directory, spare, error);
    if (error) return FromErrno(error.value(), fmt::format("moving {} aside", directory.string()));
  }
  std::filesystem::rename(filled, directory, error);
  if (error) {
    std::error_code ignored;
    std::filesystem::rename(spare, directory, ignored);
    return FromErrno(error.value(), fmt::format("renaming {} to {}", filled.string(), directory.string()));
  }
  return SyncDirectory(directory.parent_path());
}

}  // namespace

Status CheckPullTarget(const std::filesystem::path& directory, bool force) {
  std::error_code error;
  if (!std::filesystem::exists(directory, error)) return OkStatus();
  if (!std::filesystem::is_directory(directory, error)) {
    return FailedPrecondition("NOT_A_DIRECTORY", fmt::format("{} exists and is no folder", directory.string()));
  }
  if (!force && !std::filesystem::is_empty(directory, error)) {
    return FailedPrecondition(
        "DIRECTORY_NOT_EMPTY",
        fmt::format("{} is not empty; name a fresh folder, or give --force to replace it", directory.string()));
  }
  return OkStatus();
}

StatusOr<std::vector<v1::Upload>> Client::Upload(const std::vector<LocalFile>& files, const std::stop_token& stop,
                                                 const TransferProgress& progress) {
  int64_t total = 0;
  for (const LocalFile& file : files) {
    std::error_code error;
    total += static_cast<int64_t>(std::filesystem::file_size(file.path, error));
    if (error) return FromErrno(error.value(), fmt::format("reading {}", file.path.string()));
  }
  std::vector<v1::Upload> uploads;
  int64_t before = 0;
  for (const LocalFile& file : files) {
    auto upload = UploadOne(file, stop, [&](int64_t done) {
      if (progress) progress(before + done, total);
    });
    if (!upload.ok()) return upload.status().WithContext(fmt::format("uploading {}", file.name));
    before += upload->size_bytes();
    uploads.push_back(*std::move(upload));
  }
  return uploads;
}

StatusOr<v1::Upload> Client::UploadOne(const LocalFile& file, const std::stop_token& stop,
                                       const std::function<void(int64_t)>& progress) {
  SBORA_ASSIGN_OR_RETURN(const FileDigest digest, DigestFile(file.path));
  v1::CreateUploadRequest create;
  create.set_parent(Parent());
  create.set_size_bytes(digest.size_bytes);
  create.set_sha256(digest.sha256);
  create.set_accept_presigned(true);
  // A repeat after a lost answer makes a second upload; the server sweeps the one nobody finished.
  SBORA_ASSIGN_OR_RETURN(const v1::Upload upload,
                         Call(transfers_, &v1::TransferService::Stub::CreateUpload, create, Repeat::kSafe));
  TransferClient transfer(channel_, TransferOptionsOf(options_));
  SBORA_RETURN_IF_ERROR(transfer.SendBytes(upload, file.path, stop, [&](int64_t done, int64_t) { progress(done); }));
  v1::FinishUploadRequest finish;
  finish.set_name(upload.name());
  return Call(transfers_, &v1::TransferService::Stub::FinishUpload, finish, Repeat::kSafeAndLong);
}

Status Client::Pull(const google::protobuf::RepeatedPtrField<v1::File>& files, const std::string& manifest_sha256,
                    const std::filesystem::path& directory, const PullOptions& options) {
  SBORA_RETURN_IF_ERROR(CheckFiles(files, manifest_sha256, directory));
  SBORA_RETURN_IF_ERROR(CheckPullTarget(directory, options.force));
  // "adapters/" and "." have no last part of their own.
  std::filesystem::path target = std::filesystem::absolute(directory).lexically_normal();
  if (target.filename().empty()) target = target.parent_path();
  SBORA_ASSIGN_OR_RETURN(const TempDirectory work, TempDirectory::Create(target.parent_path(), ".sbora-pull"));
  const std::filesystem::path filled = work.path() / "filled";
  std::error_code error;
  std::filesystem::create_directory(filled, error);
  if (error) return FromErrno(error.value(), fmt::format("creating {}", filled.string()));

  const int64_t total = std::accumulate(files.begin(), files.end(), int64_t{0},
                                        [](int64_t sum, const v1::File& file) { return sum + file.size_bytes(); });
  TransferClient transfer(channel_, TransferOptionsOf(options_));
  int64_t before = 0;
  for (const v1::File& file : files) {
    const Status status = transfer.Download(file, filled / file.path(), options.stop, [&](int64_t done, int64_t) {
      if (options.progress) options.progress(before + done, total);
    });
    if (!status.ok()) return status.WithContext(fmt::format("downloading {}", file.path()));
    // Read again from disk: what is handed over is what was checked.
    SBORA_ASSIGN_OR_RETURN(const FileDigest digest, DigestFile(filled / file.path()));
    if (digest.sha256 != file.sha256()) {
      return DataLoss("HASH_MISMATCH",
                      fmt::format("{} has SHA-256 {} on disk, expected {}", file.path(), digest.sha256, file.sha256()));
    }
    before += file.size_bytes();
  }
  return SwapIn(filled, target, work.path() / "replaced");
}

}  // namespace sbora::client
