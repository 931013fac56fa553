#include "worker/trainer/link/failure.h"

#include <array>
#include <string_view>
#include <utility>

namespace sbora::trainer {
namespace {

constexpr std::array<std::pair<std::string_view, sbora::v1::TerminationReason>, 6> kByReason = {{
    {"NON_FINITE", sbora::v1::TERMINATION_REASON_NON_FINITE},
    {"OOM_GPU", sbora::v1::TERMINATION_REASON_OOM_GPU},
    {"OOM_HOST", sbora::v1::TERMINATION_REASON_OOM_HOST},
    {"MODEL_MEMORY", sbora::v1::TERMINATION_REASON_OOM_HOST},
    {"NO_SPACE", sbora::v1::TERMINATION_REASON_NO_SPACE},
    {"TASK_STOPPED", sbora::v1::TERMINATION_REASON_PREEMPTED},
}};

}  // namespace

sbora::v1::TerminationReason ReasonOf(const Status& status) {
  for (const auto& [reason, termination] : kByReason) {
    if (status.reason() == reason) return termination;
  }
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kOutOfRange:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kUnimplemented:
      return sbora::v1::TERMINATION_REASON_INVALID_INPUT;
    case StatusCode::kCancelled:
      return sbora::v1::TERMINATION_REASON_PREEMPTED;
    case StatusCode::kInternal:
      return sbora::v1::TERMINATION_REASON_INTERNAL;
    case StatusCode::kOk:
    case StatusCode::kUnknown:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kNotFound:
    case StatusCode::kAlreadyExists:
    case StatusCode::kPermissionDenied:
    case StatusCode::kResourceExhausted:
    case StatusCode::kAborted:
    case StatusCode::kUnavailable:
    case StatusCode::kDataLoss:
    case StatusCode::kUnauthenticated:
      return sbora::v1::TERMINATION_REASON_TRAINER_ERROR;
  }
  return sbora::v1::TERMINATION_REASON_TRAINER_ERROR;
}

v1::Error ToError(const Status& status) {
  v1::Error error;
  error.mutable_failure()->set_code(static_cast<int>(status.code()));
  error.mutable_failure()->set_reason(status.reason());
  error.mutable_failure()->set_message(status.message());
  error.set_reason(ReasonOf(status));
  return error;
}

ExitCode ExitCodeOf(const Status& status) {
  if (status.ok()) return ExitCode::kDone;
  if (status.code() == StatusCode::kCancelled) return ExitCode::kPreempted;
  return status.code() == StatusCode::kInternal ? ExitCode::kInternal : ExitCode::kError;
}

}  // namespace sbora::trainer
