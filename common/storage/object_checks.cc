#include <algorithm>

#include <fmt/format.h>

#include "common/storage/object_checks.h"
#include "common/storage/object_store.h"

namespace sbora {
namespace {

constexpr size_t kMaxKeyBytes = 900;  // S3 allows 1024 with the store's prefix
constexpr size_t kMaxSegmentBytes = 200;  // file names may have 255, and uploads add a suffix

bool IsAllowed(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
         c == '-' || c == '=';
}

Status BadKey(std::string_view key, std::string_view why) {
  return InvalidArgument("OBJECT_KEY_INVALID", fmt::format("object key {:?} {}", key.substr(0, 200), why));
}

Status CheckSegment(std::string_view key, std::string_view segment) {
  if (segment.empty()) return BadKey(key, "has an empty segment (a '/' at its start or end, or two in a row)");
  if (segment == "." || segment == "..") return BadKey(key, "has a segment \".\" or \"..\"");
  if (segment.size() > kMaxSegmentBytes) {
    return BadKey(key, fmt::format("has a segment of {} bytes; the limit is {}", segment.size(), kMaxSegmentBytes));
  }
  for (const char c : segment) {
    if (!IsAllowed(c)) return BadKey(key, fmt::format("holds {:?}; allowed are A-Z a-z 0-9 . _ = - and /", c));
  }
  return OkStatus();
}

}  // namespace

Status CheckObjectKey(std::string_view key) {
  if (key.empty()) return BadKey(key, "is empty");
  if (key.size() > kMaxKeyBytes) {
    return BadKey(key, fmt::format("has {} bytes; the limit is {}", key.size(), kMaxKeyBytes));
  }
  for (size_t start = 0; start <= key.size();) {
    const size_t end = std::min(key.find('/', start), key.size());
    if (Status status = CheckSegment(key, key.substr(start, end - start)); !status.ok()) return status;
    start = end + 1;
  }
  return OkStatus();
}

Status CheckObjectPrefix(std::string_view prefix) { return prefix.empty() ? OkStatus() : CheckObjectKey(prefix); }

Status CheckRange(std::string_view key, uint64_t length) {
  if (length > 0 && length <= kMaxRangeBytes) return OkStatus();
  return InvalidArgument("RANGE_INVALID", fmt::format("reading {}: a range of {} bytes; it must have 1 to {}", key, length,
                                                      kMaxRangeBytes));
}

Status CheckList(std::string_view prefix, const ListOptions& options) {
  if (Status status = CheckObjectPrefix(prefix); !status.ok()) return status;
  if (Status status = CheckObjectPrefix(options.start_after); !status.ok()) return status;
  if (options.max_objects >= 1 && options.max_objects <= kMaxListObjects) return OkStatus();
  return InvalidArgument("LIST_LIMIT_INVALID",
                         fmt::format("max_objects={} is outside 1 to {}", options.max_objects, kMaxListObjects));
}

Status CheckTtl(std::chrono::seconds ttl) {
  if (ttl >= std::chrono::seconds(1) && ttl <= kMaxPresignTtl) return OkStatus();
  return InvalidArgument("PRESIGN_TTL_INVALID", fmt::format("ttl={} s is outside 1 s to {} s (7 days)", ttl.count(),
                                                            std::chrono::seconds(kMaxPresignTtl).count()));
}

Status ObjectTooLarge(std::string_view key, uint64_t size, uint64_t max_bytes) {
  return OutOfRange("OBJECT_TOO_LARGE", fmt::format("reading {}: {} bytes exceed the limit of {}; read it in ranges or "
                                                    "into a file",
                                                    key, size, max_bytes));
}

Status UploadFinished() {
  return FailedPrecondition("UPLOAD_FINISHED", "this upload was already completed or aborted");
}

}  // namespace sbora
