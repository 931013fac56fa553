#include "common/storage/rust_object_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "common/ffi/ffi_call.h"
#include "common/file.h"
#include "common/ids.h"
#include "common/status_macros.h"
#include "common/storage/object_checks.h"

namespace sbora {
namespace {

using ffi::AppendTo;
using ffi::ToSlice;
using ffi::ToStatus;

std::chrono::system_clock::time_point FromMilliseconds(int64_t milliseconds) {
  return std::chrono::system_clock::time_point(std::chrono::milliseconds(milliseconds));
}

Status BadPage(std::string_view why) { return Internal("STORE_LIST_INVALID", fmt::format("object list: {}", why)); }

StatusOr<ListedObject> ParseListed(const nlohmann::json& item) {
  const auto key = item.find("key");
  const auto size = item.find("size");
  const auto etag = item.find("etag");
  const auto modified = item.find("modified_ms");
  if (key == item.end() || !key->is_string() || size == item.end() || !size->is_number_unsigned() ||
      etag == item.end() || !etag->is_string() || modified == item.end() || !modified->is_number_integer()) {
    return BadPage("an entry lacks a field");
  }
  return ListedObject{key->get<std::string>(), {size->get<uint64_t>(), etag->get<std::string>(),
                                                FromMilliseconds(modified->get<int64_t>())}};
}

StatusOr<ListPage> ParsePage(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("objects") || !json["objects"].is_array() || !json.contains("more") ||
      !json["more"].is_boolean()) {
    return BadPage("not the expected object");
  }
  ListPage page;
  page.more = json["more"].get<bool>();
  for (const auto& item : json["objects"]) {
    SBORA_ASSIGN_OR_RETURN(ListedObject object, ParseListed(item));
    page.objects.push_back(std::move(object));
  }
  return page;
}

/// Makes what is missing of `directory`, each new entry durable in its parent.
Status MakeDurableDirectories(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> missing;
  std::error_code error;
  for (auto at = directory; !std::filesystem::exists(at, error); at = at.parent_path()) missing.push_back(at);
  std::filesystem::create_directories(directory, error);
  if (error) return FromErrno(error.value(), fmt::format("making {}", directory.string()));
  for (const auto& made : missing) SBORA_RETURN_IF_ERROR(SyncDirectory(made.parent_path()));
  return OkStatus();
}

class RustObjectWriter final : public ObjectWriter {
 public:
  explicit RustObjectWriter(SboraFfiUpload* handle) : handle_(handle) {}
  ~RustObjectWriter() override { sbora_ffi_upload_free(handle_); }
  RustObjectWriter(const RustObjectWriter&) = delete;
  RustObjectWriter& operator=(const RustObjectWriter&) = delete;

  Status Write(std::string_view bytes) override {
    SboraFfiError error;
    return ToStatus(sbora_ffi_upload_write(handle_, ToSlice(bytes), &error), error);
  }
  Status Complete() override {
    SboraFfiError error;
    return ToStatus(sbora_ffi_upload_complete(handle_, &error), error);
  }
  Status Abort() override {
    SboraFfiError error;
    return ToStatus(sbora_ffi_upload_abort(handle_, &error), error);
  }

 private:
  SboraFfiUpload* handle_;  // owned
};

}  // namespace

StatusOr<std::unique_ptr<ObjectStore>> RustObjectStore::Open(const StoreLocation& location,
                                                             const ObjectStoreOptions& options) {
  const std::string region = options.region.empty() ? "us-east-1" : options.region;
  SboraFfiStoreOptions raw = {};
  raw.directory = ToSlice(location.directory);
  raw.bucket = ToSlice(location.bucket);
  raw.prefix = ToSlice(location.prefix);
  raw.endpoint = ToSlice(options.endpoint);
  raw.region = ToSlice(region);
  raw.access_key_id = ToSlice(options.access_key_id);
  raw.secret_access_key = ToSlice(options.secret_access_key);
  raw.session_token = ToSlice(options.session_token);
  raw.ca_pem = ToSlice(options.ca_pem);
  raw.allow_http = options.allow_http;
  raw.virtual_hosted_style = options.virtual_hosted_style;
  raw.fsync = true;
  raw.max_retries = options.max_retries;
  raw.retry_timeout_ms = static_cast<uint64_t>(options.retry_timeout.count());
  raw.connect_timeout_ms = static_cast<uint64_t>(options.connect_timeout.count());
  raw.request_timeout_ms = static_cast<uint64_t>(options.request_timeout.count());
  SboraFfiError error;
  SboraFfiStore* handle = nullptr;
  const int32_t code = sbora_ffi_store_open(&raw, &handle, &error);
  if (code != 0) return ToStatus(code, error);
  return std::unique_ptr<ObjectStore>(new RustObjectStore(handle, location.directory));
}

RustObjectStore::~RustObjectStore() { sbora_ffi_store_free(handle_); }

Status RustObjectStore::Put(std::string_view key, std::string_view bytes, PutMode mode) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  const bool create = mode == PutMode::kCreate;
  SboraFfiError error;
  Status status = ToStatus(sbora_ffi_store_put(handle_, ToSlice(key), ToSlice(bytes), create, &error), error);
  if (!create || status.code() != StatusCode::kAlreadyExists) return status;
  // A lost answer makes the retry collide with our own write: tell the caller whether that is possible.
  const auto stored = Get(key, bytes.size());
  return stored.ok() && *stored == bytes ? status.WithMetadata("identical", "true") : status;
}

StatusOr<uint64_t> RustObjectStore::PutFile(std::string_view key, const std::filesystem::path& path) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  SboraFfiError error;
  uint64_t size = 0;
  SBORA_RETURN_IF_ERROR(
      ToStatus(sbora_ffi_store_put_file(handle_, ToSlice(key), ToSlice(path.native()), &size, &error), error));
  return size;
}

StatusOr<uint64_t> RustObjectStore::MoveFile(std::string_view key, const std::filesystem::path& path) {
  if (directory_.empty()) return ObjectStore::MoveFile(key, path);
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", path.string()));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || ::fsync(fd.get()) != 0) return FromErrno(errno, fmt::format("syncing {}", path.string()));
  const std::filesystem::path target = directory_ / key;
  SBORA_RETURN_IF_ERROR(MakeDurableDirectories(target.parent_path()));
  if (::rename(path.c_str(), target.c_str()) != 0) {
    if (errno == EXDEV) return ObjectStore::MoveFile(key, path);
    return FromErrno(errno, fmt::format("renaming {} to {}", path.string(), target.string()));
  }
  SBORA_RETURN_IF_ERROR(SyncDirectory(target.parent_path()));
  return static_cast<uint64_t>(info.st_size);
}

StatusOr<std::unique_ptr<ObjectWriter>> RustObjectStore::StartMultipart(std::string_view key) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  SboraFfiError error;
  SboraFfiUpload* upload = nullptr;
  SBORA_RETURN_IF_ERROR(ToStatus(sbora_ffi_upload_start(handle_, ToSlice(key), &upload, &error), error));
  return std::unique_ptr<ObjectWriter>(new RustObjectWriter(upload));
}

StatusOr<std::string> RustObjectStore::Get(std::string_view key, uint64_t max_bytes) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  SboraFfiError error;
  std::string bytes;
  SBORA_RETURN_IF_ERROR(
      ToStatus(sbora_ffi_store_get(handle_, ToSlice(key), 0, 0, max_bytes, AppendTo(&bytes), &error), error));
  return bytes;
}

StatusOr<std::string> RustObjectStore::GetRange(std::string_view key, uint64_t offset, uint64_t length) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  SBORA_RETURN_IF_ERROR(CheckRange(key, length));
  SboraFfiError error;
  std::string bytes;
  SBORA_RETURN_IF_ERROR(ToStatus(
      sbora_ffi_store_get(handle_, ToSlice(key), offset, length, length, AppendTo(&bytes), &error), error));
  return bytes;
}

StatusOr<uint64_t> RustObjectStore::GetToFile(std::string_view key, const std::filesystem::path& path) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  std::filesystem::path part = path;
  part += fmt::format(".part-{}", NewUuid4());
  SboraFfiError error;
  uint64_t size = 0;
  Status status =
      ToStatus(sbora_ffi_store_get_to_file(handle_, ToSlice(key), ToSlice(part.native()), &size, &error), error);
  std::error_code ignored;
  if (!status.ok()) {
    std::filesystem::remove(part, ignored);
    return status;
  }
  std::error_code renamed;
  std::filesystem::rename(part, path, renamed);
  if (renamed) {
    std::filesystem::remove(part, ignored);
    return FromErrno(renamed.value(), fmt::format("renaming {} to {}", part.string(), path.string()));
  }
  SBORA_RETURN_IF_ERROR(SyncDirectory(path.has_parent_path() ? path.parent_path() : "."));
  return size;
}

StatusOr<ObjectInfo> RustObjectStore::Head(std::string_view key) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  SboraFfiError error;
  ObjectInfo info;
  int64_t modified_ms = 0;
  SBORA_RETURN_IF_ERROR(ToStatus(
      sbora_ffi_store_head(handle_, ToSlice(key), &info.size_bytes, &modified_ms, AppendTo(&info.etag), &error), error));
  info.modified = FromMilliseconds(modified_ms);
  return info;
}

StatusOr<ListPage> RustObjectStore::List(std::string_view prefix, const ListOptions& options) {
  SBORA_RETURN_IF_ERROR(CheckList(prefix, options));
  SboraFfiError error;
  std::string page;
  SBORA_RETURN_IF_ERROR(ToStatus(sbora_ffi_store_list(handle_, ToSlice(prefix), ToSlice(options.start_after),
                                                      options.max_objects, AppendTo(&page), &error),
                                 error));
  return ParsePage(page);
}

Status RustObjectStore::Copy(std::string_view from, std::string_view to) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(from));
  SBORA_RETURN_IF_ERROR(CheckObjectKey(to));
  SboraFfiError error;
  return ToStatus(sbora_ffi_store_copy(handle_, ToSlice(from), ToSlice(to), &error), error);
}

Status RustObjectStore::Delete(std::string_view key) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  SboraFfiError error;
  return ToStatus(sbora_ffi_store_delete(handle_, ToSlice(key), &error), error);
}

StatusOr<std::string> RustObjectStore::PresignGet(std::string_view key, std::chrono::seconds ttl) {
  return Presign(key, /*put=*/false, ttl);
}

StatusOr<std::string> RustObjectStore::PresignPut(std::string_view key, std::chrono::seconds ttl) {
  return Presign(key, /*put=*/true, ttl);
}

StatusOr<std::string> RustObjectStore::Presign(std::string_view key, bool put, std::chrono::seconds ttl) {
  SBORA_RETURN_IF_ERROR(CheckObjectKey(key));
  SBORA_RETURN_IF_ERROR(CheckTtl(ttl));
  SboraFfiError error;
  std::string url;
  SBORA_RETURN_IF_ERROR(ToStatus(sbora_ffi_store_presign(handle_, ToSlice(key), put,
                                                         static_cast<uint64_t>(ttl.count()), AppendTo(&url), &error),
                                 error));
  return url;
}

}  // namespace sbora
