#include <fmt/format.h>

#include <system_error>

#include "common/status_macros.h"
#include "common/storage/memory_object_store.h"
#include "common/storage/object_store.h"
#include "common/storage/rust_object_store.h"

namespace sbora {

StatusOr<uint64_t> ObjectStore::MoveFile(std::string_view key, const std::filesystem::path& path) {
  SBORA_ASSIGN_OR_RETURN(const uint64_t size, PutFile(key, path));
  std::error_code error;
  std::filesystem::remove(path, error);
  if (error) return FromErrno(error.value(), fmt::format("removing {}", path.string()));
  return size;
}

namespace {

Status BadUrl(std::string_view url, std::string_view why) {
  return InvalidArgument("STORE_URL_INVALID",
                         fmt::format("object store URL {:?} {}; write file:///abs/dir, s3://bucket/prefix or memory://",
                                     url, why));
}

StatusOr<StoreLocation> LocateDirectory(std::string_view url, std::string_view path) {
  if (!path.starts_with('/')) return BadUrl(url, "has no absolute path");
  if (path.find_first_of("%?#") != std::string_view::npos) return BadUrl(url, "holds one of % ? #");
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return FromErrno(error.value(), fmt::format("making the object store's folder {}", path));
  return StoreLocation{.directory = std::string(path), .bucket = "", .prefix = ""};
}

StatusOr<StoreLocation> LocateBucket(std::string_view url, std::string_view rest) {
  const size_t slash = std::min(rest.find('/'), rest.size());
  StoreLocation location = {.directory = "", .bucket = std::string(rest.substr(0, slash)), .prefix = ""};
  if (location.bucket.size() < 3 || location.bucket.size() > 63 ||
      location.bucket.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-") != std::string::npos) {
    return BadUrl(url, "has no valid bucket (3 to 63 of a-z 0-9 . -)");
  }
  std::string_view prefix = rest.substr(std::min(slash + 1, rest.size()));
  if (prefix.ends_with('/')) prefix.remove_suffix(1);
  if (!CheckObjectPrefix(prefix).ok() || prefix.size() > 100) {
    return BadUrl(url, "has a prefix that is no object key of at most 100 bytes");
  }
  location.prefix = prefix;
  return location;
}

Status CheckS3Options(const ObjectStoreOptions& options) {
  if (options.access_key_id.empty() != options.secret_access_key.empty()) {
    return InvalidArgument("STORE_CONFIG_INVALID", "give both access_key_id and secret_access_key, or neither");
  }
  if (options.endpoint.starts_with("http://") && !options.allow_http) {
    return InvalidArgument("STORE_CONFIG_INVALID",
                           fmt::format("endpoint {} is not encrypted; use https, or set allow_http", options.endpoint));
  }
  if (options.retry_timeout.count() <= 0 || options.connect_timeout.count() <= 0 ||
      options.request_timeout.count() <= 0) {
    return InvalidArgument("STORE_CONFIG_INVALID", "the time-outs of an object store must be positive");
  }
  return OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<ObjectStore>> OpenObjectStore(const ObjectStoreOptions& options) {
  const std::string_view url = options.url;
  if (url == "memory://") return std::unique_ptr<ObjectStore>(new MemoryObjectStore());
  if (url.starts_with("file://")) {
    SBORA_ASSIGN_OR_RETURN(const StoreLocation location, LocateDirectory(url, url.substr(7)));
    return RustObjectStore::Open(location, options);
  }
  if (url.starts_with("s3://")) {
    SBORA_ASSIGN_OR_RETURN(const StoreLocation location, LocateBucket(url, url.substr(5)));
    SBORA_RETURN_IF_ERROR(CheckS3Options(options));
    return RustObjectStore::Open(location, options);
  }
  return BadUrl(url, "has another scheme");
}

}  // namespace sbora
