#include "common/status.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>

namespace sbora {
namespace internal {

void CheckFailed(const char* file, int line, std::string_view condition, const std::string& message) {
  std::fprintf(stderr, "%s:%d: check failed: %.*s: %s\n", file, line, static_cast<int>(condition.size()),
               condition.data(), message.c_str());
  std::abort();
}

}  // namespace internal

namespace {

constexpr std::array<std::string_view, 17> kCodeNames = {
    "OK",           "CANCELLED",         "UNKNOWN",             "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED",       "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL",         "UNAVAILABLE",         "DATA_LOSS",        "UNAUTHENTICATED"};

StatusCode CodeOfErrno(int errno_value) {
  switch (errno_value) {
    case ENOENT: return StatusCode::kNotFound;
    case EEXIST: return StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM: return StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOMEM: return StatusCode::kResourceExhausted;
    case ECONNREFUSED:
    case ECONNRESET:
    case EAGAIN: return StatusCode::kUnavailable;
    default: return StatusCode::kInternal;
  }
}

std::string_view ReasonOfErrno(int errno_value) {
  switch (errno_value) {
    case ENOENT: return "FILE_NOT_FOUND";
    case EEXIST: return "FILE_EXISTS";
    case EACCES:
    case EPERM: return "FILE_PERMISSION_DENIED";
    case ENOSPC:
    case EDQUOT: return "NO_SPACE";
    default: return "IO_ERROR";
  }
}

}  // namespace

std::string_view StatusCodeName(StatusCode code) { return kCodeNames.at(static_cast<size_t>(code)); }

Status::Status(StatusCode code, std::string_view reason, std::string message)
    : rep_(std::make_shared<const Rep>(Rep{code, std::string(reason), std::move(message), {}, {}})) {
  SBORA_CHECK(code != StatusCode::kOk, "an error with code OK: {}", rep_->message);
}

const std::string& Status::message() const {
  static const std::string empty;
  return rep_ ? rep_->message : empty;
}

const std::string& Status::reason() const {
  static const std::string empty;
  return rep_ ? rep_->reason : empty;
}

const std::vector<std::pair<std::string, std::string>>& Status::metadata() const {
  static const std::vector<std::pair<std::string, std::string>> empty;
  return rep_ ? rep_->metadata : empty;
}

const std::vector<FieldViolation>& Status::violations() const {
  static const std::vector<FieldViolation> empty;
  return rep_ ? rep_->violations : empty;
}

Status Status::WithMetadata(std::string_view key, std::string value) const {
  if (ok()) return *this;
  Status copy = *this;
  Rep rep = *rep_;
  rep.metadata.emplace_back(std::string(key), std::move(value));
  copy.rep_ = std::make_shared<const Rep>(std::move(rep));
  return copy;
}

Status Status::WithViolation(std::string_view field, std::string description) const {
  if (ok()) return *this;
  Status copy = *this;
  Rep rep = *rep_;
  rep.violations.push_back({std::string(field), std::move(description)});
  copy.rep_ = std::make_shared<const Rep>(std::move(rep));
  return copy;
}

Status Status::WithContext(std::string_view context) const {
  if (ok()) return *this;
  Status copy = *this;
  Rep rep = *rep_;
  rep.message = fmt::format("{}: {}", context, rep.message);
  copy.rep_ = std::make_shared<const Rep>(std::move(rep));
  return copy;
}

std::string Status::ToString() const {
  if (ok()) return "OK";
  return fmt::format("{} [{}]: {}", StatusCodeName(rep_->code), rep_->reason, rep_->message);
}

std::ostream& operator<<(std::ostream& out, const Status& status) { return out << status.ToString(); }

#define SBORA_DEFINE_STATUS(name) \
  Status name(std::string_view reason, std::string message) { return Status(StatusCode::k##name, reason, std::move(message)); }
SBORA_DEFINE_STATUS(InvalidArgument)
SBORA_DEFINE_STATUS(NotFound)
SBORA_DEFINE_STATUS(AlreadyExists)
SBORA_DEFINE_STATUS(FailedPrecondition)
SBORA_DEFINE_STATUS(ResourceExhausted)
SBORA_DEFINE_STATUS(OutOfRange)
SBORA_DEFINE_STATUS(Unimplemented)
SBORA_DEFINE_STATUS(Internal)
SBORA_DEFINE_STATUS(Unavailable)
SBORA_DEFINE_STATUS(DataLoss)
SBORA_DEFINE_STATUS(Aborted)
SBORA_DEFINE_STATUS(Cancelled)
SBORA_DEFINE_STATUS(DeadlineExceeded)
SBORA_DEFINE_STATUS(PermissionDenied)
SBORA_DEFINE_STATUS(Unauthenticated)
#undef SBORA_DEFINE_STATUS

Status FromErrno(int errno_value, std::string_view what) {
  return Status(CodeOfErrno(errno_value), ReasonOfErrno(errno_value),
                fmt::format("{}: {}", what, std::system_category().message(errno_value)));
}

bool IsRetryable(StatusCode code) { return code == StatusCode::kUnavailable; }

}  // namespace sbora
