/// Object stores: named, immutable-by-convention byte strings in a directory, an S3 bucket, or memory.
///
///     ObjectStoreOptions options;
///     options.url = "s3://models/prod";
///     options.access_key_id = ...;
///     SBORA_ASSIGN_OR_RETURN(const std::unique_ptr<ObjectStore> store, OpenObjectStore(options));
///     SBORA_RETURN_IF_ERROR(store->Put("jobs/0198/manifest.json", text, PutMode::kCreate));
///
/// Keys: segments of [A-Za-z0-9._=-] joined by '/', no segment empty, "." or "..", at most 200 bytes each and 900 in
/// all (INVALID_ARGUMENT OBJECT_KEY_INVALID). Do not store both `x` and `x/y`: directories cannot hold them.
/// Durability: when a write returns OK, the object is whole, visible and durable (directories are fsynced); a failed
/// or unfinished write shows nothing under its key.
/// Retries: the one layer is inside the S3 implementation; callers must not add their own around single calls.
/// Reasons: OBJECT_NOT_FOUND (NOT_FOUND), OBJECT_EXISTS (ALREADY_EXISTS), OBJECT_CHANGED (FAILED_PRECONDITION: replaced
/// while being read), OBJECT_KEY_CONFLICT, BUCKET_NOT_FOUND, STORE_REFUSED (FAILED_PRECONDITION), NO_SPACE
/// (RESOURCE_EXHAUSTED), STORE_UNAVAILABLE and STORE_TIMEOUT (UNAVAILABLE, after the retries), STORE_PERMISSION_DENIED,
/// STORE_UNAUTHENTICATED, STORE_SHORT_READ (DATA_LOSS), STORE_IO_FAILED (INTERNAL).
/// Contents are not verified on read: callers compare the SHA-256 they know.
/// Threading: all calls block and may be made from many threads at once. No call may be under way at destruction.
/// A process that forks without exec must open its stores after the fork.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora {

enum class PutMode {
  kOverwrite,
  kCreate,  ///< ALREADY_EXISTS when the key is taken; exactly one of several racing writers wins
};

struct ObjectInfo {
  uint64_t size_bytes = 0;
  std::string etag;  ///< changes with the content; otherwise meaningless; may be empty
  std::chrono::system_clock::time_point modified;
};

struct ListedObject {
  std::string key;
  ObjectInfo info;
};

struct ListOptions {
  std::string start_after;      ///< a key; listing goes on behind it
  uint32_t max_objects = 1000;  ///< 1 to 10,000
};

struct ListPage {
  std::vector<ListedObject> objects;  ///< by key, bytewise
  bool more = false;                  ///< go on with start_after = objects.back().key
};

/// An upload in chunks of any size. One thread at a time. Must not outlive its store. Destroying it before Complete
/// shows nothing under the key, but may leave parts in a bucket: call Abort, and give the bucket a lifecycle rule.
class ObjectWriter {
 public:
  virtual ~ObjectWriter() = default;
  /// Blocks while enough parts (8 MiB each) are under way. After an error only Abort is allowed.
  virtual Status Write(std::string_view bytes) = 0;
  /// Makes the object visible, replacing an older one. FAILED_PRECONDITION UPLOAD_FINISHED the second time.
  virtual Status Complete() = 0;
  virtual Status Abort() = 0;
};

class ObjectStore {
 public:
  virtual ~ObjectStore() = default;

  /// With kCreate, OBJECT_EXISTS may be about our own write when an answer was lost and the request repeated; metadata
  /// "identical" = "true" then says that the stored bytes equal ours. A writer that must know puts its identity into
  /// the bytes.
  virtual Status Put(std::string_view key, std::string_view bytes, PutMode mode) = 0;
  /// Uploads a file (in parts above 8 MiB) and replaces an older object; gives its size.
  /// FAILED_PRECONDITION FILE_CHANGED when it grew or shrank meanwhile; NOT_FOUND FILE_NOT_FOUND.
  virtual StatusOr<uint64_t> PutFile(std::string_view key, const std::filesystem::path& path) = 0;
  /// As PutFile, and the file is gone when this returns OK. A directory store renames a file of its own file system
  /// instead of copying it.
  virtual StatusOr<uint64_t> MoveFile(std::string_view key, const std::filesystem::path& path);
  virtual StatusOr<std::unique_ptr<ObjectWriter>> StartMultipart(std::string_view key) = 0;

  /// OUT_OF_RANGE OBJECT_TOO_LARGE above `max_bytes`.
  virtual StatusOr<std::string> Get(std::string_view key, uint64_t max_bytes) = 0;
  /// Bytes [offset, min(offset + length, size)). OUT_OF_RANGE RANGE_OUTSIDE_OBJECT when offset >= size;
  /// INVALID_ARGUMENT RANGE_INVALID for length 0 or above 1 GiB.
  virtual StatusOr<std::string> GetRange(std::string_view key, uint64_t offset, uint64_t length) = 0;
  /// Downloads beside `path`, fsyncs and renames over it: `path` is whole or untouched. Gives the size.
  virtual StatusOr<uint64_t> GetToFile(std::string_view key, const std::filesystem::path& path) = 0;

  virtual StatusOr<ObjectInfo> Head(std::string_view key) = 0;
  /// Objects below the folder `prefix` ("" for all): "a/b" finds "a/b/c" and not "a/bc". Names that are
  /// no keys (see above) are passed over. A directory store reads the whole folder for each page.
  virtual StatusOr<ListPage> List(std::string_view prefix, const ListOptions& options) = 0;
  /// Gives `to` the bytes that `from` has at one moment, inside the store, replacing an older object. S3: at most 5 GiB.
  virtual Status Copy(std::string_view from, std::string_view to) = 0;
  /// A missing object is OK.
  virtual Status Delete(std::string_view key) = 0;

  /// A URL with which anybody may read (write) this one object until `ttl` (1 s to 7 days) is over: a secret, keep it
  /// out of logs. UNIMPLEMENTED PRESIGN_UNSUPPORTED for directories and memory.
  virtual StatusOr<std::string> PresignGet(std::string_view key, std::chrono::seconds ttl) = 0;
  virtual StatusOr<std::string> PresignPut(std::string_view key, std::chrono::seconds ttl) = 0;
};

/// How to reach a store. Secrets come from files or the environment, read by the caller, never from argv.
struct ObjectStoreOptions {
  /// "file:///abs/dir" (made when missing), "s3://bucket" or "s3://bucket/prefix", "memory://".
  std::string url;

  // The rest is for S3.
  std::string endpoint;  ///< "http://host:port" of another S3 server; empty for AWS
  std::string region;    ///< empty: us-east-1
  /// Empty: the environment, web identity, container and instance credentials, in the usual order.
  std::string access_key_id;
  std::string secret_access_key;
  std::string session_token;
  std::string ca_pem;                 ///< certificates to trust besides the system's
  bool allow_http = false;            ///< permits an http:// endpoint
  bool virtual_hosted_style = false;  ///< bucket in the host name instead of the path
  uint32_t max_retries = 6;           ///< per request; with growing pauses
  std::chrono::milliseconds retry_timeout{60'000};
  std::chrono::milliseconds connect_timeout{5'000};
  std::chrono::milliseconds request_timeout{120'000};  ///< one attempt of one request (parts and ranges: 8 to 16 MiB)
};

/// Errors: INVALID_ARGUMENT STORE_URL_INVALID or STORE_CONFIG_INVALID. Does not connect: the first call does.
StatusOr<std::unique_ptr<ObjectStore>> OpenObjectStore(const ObjectStoreOptions& options);

/// The rule for keys stated above.
Status CheckObjectKey(std::string_view key);
/// The same for List's prefix, where "" is allowed.
Status CheckObjectPrefix(std::string_view prefix);

}  // namespace sbora
