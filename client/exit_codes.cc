#include "client/exit_codes.h"

namespace sbora::client {

ExitCode ExitCodeOf(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return ExitCode::kOk;
    case StatusCode::kInvalidArgument:
    case StatusCode::kOutOfRange:
      return ExitCode::kUsage;
    case StatusCode::kNotFound:
      return ExitCode::kNotFound;
    case StatusCode::kAlreadyExists:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kAborted:
      return ExitCode::kPrecondition;
    case StatusCode::kUnavailable:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kResourceExhausted:
      return ExitCode::kUnavailable;
    case StatusCode::kPermissionDenied:
    case StatusCode::kUnauthenticated:
      return ExitCode::kPermission;
    case StatusCode::kDataLoss:
      return ExitCode::kDataCorrupt;
    case StatusCode::kCancelled:
      return ExitCode::kCancelled;
    case StatusCode::kUnimplemented:
      return ExitCode::kUnimplemented;
    case StatusCode::kUnknown:
    case StatusCode::kInternal:
      return ExitCode::kInternal;
  }
  return ExitCode::kInternal;
}

std::string ExitCodeHelp() {
  return "Exit codes: 0 ok, 1 the job or operation failed, 2 usage or invalid argument, 3 not found, 4 already exists "
         "or\n"
         "wrong state, 5 unavailable or out of time, 6 not permitted, 7 data corrupt, 8 cancelled or interrupted,\n"
         "9 not implemented, 10 internal error.";
}

}  // namespace sbora::client
