#include "server/services/stored_files.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/status_macros.h"
#include "core/names.h"

namespace sbora::server {
namespace {

constexpr size_t kMaxFileName = 200;

bool IsNameCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
}

}  // namespace

Status CheckFileName(const std::string& path, std::string_view field) {
  const bool good = !path.empty() && path.size() <= kMaxFileName && path[0] != '.' && std::all_of(path.begin(), path.end(), IsNameCharacter);
  if (good) return OkStatus();
  return InvalidArgument("BAD_FILE_NAME", fmt::format("\"{}\" is no file name", path.substr(0, kMaxFileName)))
      .WithViolation(field, "letters, digits, '.', '_' and '-', at most 200, not starting with '.'; no folders");
}

StatusOr<v1::File> FileOfUpload(const ServiceContext& services, const std::string& project, const std::string& upload,
                                const std::string& path, std::string_view field) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName name, core::ParseName(upload, core::Collection::kUploads, field));
  SBORA_ASSIGN_OR_RETURN(const UploadRow row, services.store().GetUpload(name.id));
  if (row.project != project || name.project != project) {
    return NotFound("UPLOAD_NOT_FOUND", fmt::format("{} does not exist in projects/{}", upload, project)).WithMetadata("resource", upload);
  }
  if (!row.finished) {
    return FailedPrecondition("UPLOAD_NOT_FINISHED", fmt::format("{} is not finished; call FinishUpload first", upload))
        .WithMetadata("resource", upload);
  }
  v1::File file;
  file.set_path(path);
  file.set_size_bytes(row.size_bytes);
  file.set_sha256(row.sha256);
  file.set_object(core::ResourceName{project, core::Collection::kObjects, row.object_uid}.ToString());
  return file;
}

StatusOr<ObjectRow> FindObject(const ServiceContext& services, const std::string& object) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName name, core::ParseName(object, core::Collection::kObjects, "object"));
  SBORA_ASSIGN_OR_RETURN(ObjectRow row, services.store().GetObject(name.id));
  if (row.project == name.project) return row;
  return NotFound("OBJECT_NOT_FOUND", fmt::format("{} does not exist", object)).WithMetadata("resource", object);
}

StatusOr<ObjectRow> CheckStoredFile(const ServiceContext& services, const std::string& project, const v1::File& file) {
  SBORA_RETURN_IF_ERROR(CheckFileName(file.path(), "files.path"));
  SBORA_ASSIGN_OR_RETURN(ObjectRow row, FindObject(services, file.object()));
  if (row.project != project) {
    return NotFound("OBJECT_NOT_FOUND", fmt::format("{} does not exist in projects/{}", file.object(), project))
        .WithMetadata("resource", file.object());
  }
  if (row.size_bytes == file.size_bytes() && row.sha256 == file.sha256()) return row;
  return DataLoss("HASH_MISMATCH", fmt::format("{}: {} bytes with SHA-256 {} were announced, {} bytes with {} were uploaded", file.path(),
                                               file.size_bytes(), file.sha256(), row.size_bytes, row.sha256))
      .WithMetadata("file", file.path());
}

std::string ObjectKey(const std::string& project, const std::string& object_uid) {
  return fmt::format("projects/{}/objects/{}", project, object_uid);
}

std::string UidOfObject(const std::string& object) { return object.substr(object.rfind('/') + 1); }

}  // namespace sbora::server
