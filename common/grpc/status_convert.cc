#include "common/grpc/status_convert.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <string>
#include <string_view>

namespace sbora {
namespace {

// The message travels twice (grpc-message, where non-ASCII bytes take three, and in the details), the details as
// base64: together they must stay under gRPC's default metadata limit of 8 KiB.
constexpr size_t kMaxMessageBytes = 1200;
constexpr size_t kMaxDetailsBytes = 2500;

#define SBORA_SAME_CODE(ours, theirs) \
  static_assert(static_cast<int>(StatusCode::ours) == static_cast<int>(grpc::StatusCode::theirs))
SBORA_SAME_CODE(kOk, OK);
SBORA_SAME_CODE(kCancelled, CANCELLED);
SBORA_SAME_CODE(kUnknown, UNKNOWN);
SBORA_SAME_CODE(kInvalidArgument, INVALID_ARGUMENT);
SBORA_SAME_CODE(kDeadlineExceeded, DEADLINE_EXCEEDED);
SBORA_SAME_CODE(kNotFound, NOT_FOUND);
SBORA_SAME_CODE(kAlreadyExists, ALREADY_EXISTS);
SBORA_SAME_CODE(kPermissionDenied, PERMISSION_DENIED);
SBORA_SAME_CODE(kResourceExhausted, RESOURCE_EXHAUSTED);
SBORA_SAME_CODE(kFailedPrecondition, FAILED_PRECONDITION);
SBORA_SAME_CODE(kAborted, ABORTED);
SBORA_SAME_CODE(kOutOfRange, OUT_OF_RANGE);
SBORA_SAME_CODE(kUnimplemented, UNIMPLEMENTED);
SBORA_SAME_CODE(kInternal, INTERNAL);
SBORA_SAME_CODE(kUnavailable, UNAVAILABLE);
SBORA_SAME_CODE(kDataLoss, DATA_LOSS);
SBORA_SAME_CODE(kUnauthenticated, UNAUTHENTICATED);
#undef SBORA_SAME_CODE

/// Length of the valid UTF-8 sequence at the start of `text`, 0 when there is none.
size_t Utf8Length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto follows = [&](size_t n) {
    if (text.size() < n) return false;
    for (size_t i = 1; i < n; ++i) {
      if ((byte(i) & 0xC0) != 0x80) return false;
    }
    return true;
  };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return follows(2) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (!follows(3)) return 0;
    const bool overlong = first == 0xE0 && byte(1) < 0xA0;
    const bool surrogate = first == 0xED && byte(1) >= 0xA0;
    return overlong || surrogate ? 0 : 3;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (!follows(4)) return 0;
    const bool overlong = first == 0xF0 && byte(1) < 0x90;
    const bool too_large = first == 0xF4 && byte(1) >= 0x90;
    return overlong || too_large ? 0 : 4;
  }
  return 0;
}

/// Protobuf strings must be UTF-8, and messages quote what users sent: bad bytes become '?', long texts are cut at a
/// character.
std::string CleanText(std::string_view text, size_t max_bytes) {
  std::string out;
  out.reserve(std::min(text.size(), max_bytes));
  size_t room_for_dots = 0;  // the last character's end that leaves room for them
  while (!text.empty()) {
    if (out.size() + 3 <= max_bytes) room_for_dots = out.size();
    const size_t length = Utf8Length(text);
    const size_t added = length == 0 ? 1 : length;
    if (out.size() + added > max_bytes) {
      return out.substr(0, room_for_dots) + "...";
    }
    out += length == 0 ? std::string_view("?") : text.substr(0, length);
    text.remove_prefix(added);
  }
  return out;
}

google::rpc::Status BuildDetails(const Status& status, const std::string& message) {
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(message);
  google::rpc::ErrorInfo info;
  info.set_reason(CleanText(status.reason(), 63));
  info.set_domain(kErrorDomain);
  size_t budget = kMaxDetailsBytes;
  for (const auto& [key, value] : status.metadata()) {
    const std::string text = CleanText(value, 512);
    if (key.size() + text.size() + 8 > budget) break;
    budget -= key.size() + text.size() + 8;
    (*info.mutable_metadata())[CleanText(key, 64)] = text;
  }
  google::rpc::BadRequest bad_request;
  int64_t omitted = 0;
  for (const auto& violation : status.violations()) {
    const std::string field = CleanText(violation.field, 256);
    const std::string description = CleanText(violation.description, 512);
    if (omitted > 0 || field.size() + description.size() + 8 > budget) {
      ++omitted;
      continue;
    }
    budget -= field.size() + description.size() + 8;
    auto* added = bad_request.add_field_violations();
    added->set_field(field);
    added->set_description(description);
  }
  if (omitted > 0) (*info.mutable_metadata())["violations_omitted"] = std::to_string(omitted);
  details.add_details()->PackFrom(info);
  if (bad_request.field_violations_size() > 0) details.add_details()->PackFrom(bad_request);
  return details;
}

StatusCode KnownCode(int code) {
  const bool known = code >= 0 && code <= static_cast<int>(StatusCode::kUnauthenticated);
  return known ? static_cast<StatusCode>(code) : StatusCode::kUnknown;
}

}  // namespace

grpc::Status ToGrpc(const Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message = CleanText(status.message(), kMaxMessageBytes);
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      BuildDetails(status, message).SerializeAsString());
}

Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return OkStatus();
  const StatusCode code = KnownCode(static_cast<int>(status.error_code()));
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad_request;
  google::rpc::Status details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details())) {
    for (const auto& detail : details.details()) {
      // A failed unpack leaves the message empty; the plain code and message still stand.
      if (detail.Is<google::rpc::ErrorInfo>() && !detail.UnpackTo(&info)) info.Clear();
      if (detail.Is<google::rpc::BadRequest>() && !detail.UnpackTo(&bad_request)) bad_request.Clear();
    }
  }
  const std::string reason = info.reason().empty() ? "GRPC_" + std::string(StatusCodeName(code)) : info.reason();
  Status result(code, reason, status.error_message());
  for (const auto& [key, value] : info.metadata()) result = result.WithMetadata(key, value);
  for (const auto& violation : bad_request.field_violations()) {
    result = result.WithViolation(violation.field(), violation.description());
  }
  return result;
}

v1::Failure ToFailure(const Status& status) {
  v1::Failure failure;
  failure.set_code(static_cast<int>(status.code()));
  failure.set_reason(CleanText(status.reason(), 63));
  failure.set_message(CleanText(status.message(), kMaxMessageBytes));
  return failure;
}

Status FromFailure(const v1::Failure& failure) {
  if (failure.code() == 0) return OkStatus();
  return Status(KnownCode(failure.code()), failure.reason(), failure.message());
}

}  // namespace sbora
