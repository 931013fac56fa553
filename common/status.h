/// Errors as values: `Status` and `StatusOr<T>`.
///
/// Codes are gRPC's canonical codes, so that one table (`IsRetryable`) decides policy on both sides of the wire.
/// An error carries a message for people, a stable `reason` for programs (UPPER_SNAKE, google.rpc.ErrorInfo), metadata
/// (each variable part of the message, by name), and field violations (google.rpc.BadRequest) for bad input.
///
///     Status CheckRank(int64_t rank, int64_t in_features) {
///       if (rank > in_features) {
///         return InvalidArgument("RANK_TOO_LARGE", fmt::format("adapter.rank={} exceeds in_features={}", ...))
///             .WithViolation("spec.adapter.rank", "must be at most 576 for self_attn.k_proj of this model");
///       }
///       return OkStatus();
///     }
///
/// Threading: a Status is immutable once shared; copies are cheap (one reference count).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/check.h"

namespace sbora {

/// Canonical codes; the numbers equal grpc::StatusCode (static_asserted in common/grpc/status_convert.cc).
enum class StatusCode : int {
  kOk = 0,
  kCancelled = 1,
  kUnknown = 2,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kAlreadyExists = 6,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kAborted = 10,
  kOutOfRange = 11,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
  kDataLoss = 15,
  kUnauthenticated = 16,
};

/// "INVALID_ARGUMENT" and so on.
std::string_view StatusCodeName(StatusCode code);

/// A bad input field: `field` is a proto field path such as "spec.adapter.rank".
struct FieldViolation {
  std::string field;
  std::string description;
};

class [[nodiscard]] Status {
 public:
  /// OK.
  Status() = default;
  /// REQUIRED: `code` is not kOk. `reason` is UPPER_SNAKE_CASE, at most 63 characters, and stable across releases.
  Status(StatusCode code, std::string_view reason, std::string message);

  bool ok() const { return rep_ == nullptr; }
  StatusCode code() const { return rep_ ? rep_->code : StatusCode::kOk; }
  const std::string& message() const;
  const std::string& reason() const;
  const std::vector<std::pair<std::string, std::string>>& metadata() const;
  const std::vector<FieldViolation>& violations() const;

  /// Copies with one more detail. No effect on an OK status.
  Status WithMetadata(std::string_view key, std::string value) const;
  Status WithViolation(std::string_view field, std::string description) const;
  /// Puts "context: " before the message; code, reason and details stay. Wrap once per layer.
  Status WithContext(std::string_view context) const;

  /// "INVALID_ARGUMENT [RANK_TOO_LARGE]: message", or "OK".
  std::string ToString() const;

  /// The only way to drop an error on purpose; `why` is for the reader.
  void IgnoreError(std::string_view /*why*/) const {}

 private:
  struct Rep {
    StatusCode code;
    std::string reason;
    std::string message;
    std::vector<std::pair<std::string, std::string>> metadata;
    std::vector<FieldViolation> violations;
  };
  std::shared_ptr<const Rep> rep_;  // shared: copies of one error are the same error
};

std::ostream& operator<<(std::ostream& out, const Status& status);

inline Status OkStatus() { return Status(); }
Status InvalidArgument(std::string_view reason, std::string message);
Status NotFound(std::string_view reason, std::string message);
Status AlreadyExists(std::string_view reason, std::string message);
Status FailedPrecondition(std::string_view reason, std::string message);
Status ResourceExhausted(std::string_view reason, std::string message);
Status OutOfRange(std::string_view reason, std::string message);
Status Unimplemented(std::string_view reason, std::string message);
Status Internal(std::string_view reason, std::string message);
Status Unavailable(std::string_view reason, std::string message);
Status DataLoss(std::string_view reason, std::string message);
Status Aborted(std::string_view reason, std::string message);
Status Cancelled(std::string_view reason, std::string message);
Status DeadlineExceeded(std::string_view reason, std::string message);
Status PermissionDenied(std::string_view reason, std::string message);
Status Unauthenticated(std::string_view reason, std::string message);

/// An operating-system error: `errno_value` becomes the nearest code, its text goes into the message.
Status FromErrno(int errno_value, std::string_view what);

/// True for codes after which the same call may succeed later (AIP-194: UNAVAILABLE only).
bool IsRetryable(StatusCode code);

/// A value or the error that stands in its place.
template <typename T>
class [[nodiscard]] StatusOr {
 public:
  StatusOr(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    SBORA_CHECK(!status_.ok(), "StatusOr built from an OK status without a value");
  }
  StatusOr(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  template <typename U>
    requires(std::is_convertible_v<U &&, T> && !std::is_same_v<std::remove_cvref_t<U>, StatusOr> &&
             !std::is_same_v<std::remove_cvref_t<U>, Status>)
  StatusOr(U&& value) : value_(std::forward<U>(value)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return value_.has_value(); }
  const Status& status() const& { return status_; }
  Status status() && { return std::move(status_); }

  T& value() & { Require(); return *value_; }
  const T& value() const& { Require(); return *value_; }
  T&& value() && { Require(); return *std::move(value_); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { Require(); return &*value_; }
  const T* operator->() const { Require(); return &*value_; }

 private:
  void Require() const { SBORA_CHECK(ok(), "value() of a failed StatusOr: {}", status_.ToString()); }

  Status status_;
  std::optional<T> value_;
};

}  // namespace sbora
