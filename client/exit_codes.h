/// What the program ends with. Scripts rely on these numbers; client/README.md and --help list them.
#pragma once

#include <string>

#include "common/status.h"

namespace sbora::client {

enum class ExitCode : int {
  kOk = 0,
  kFailed = 1,  ///< the job or operation ended FAILED
  kUsage = 2,   ///< flags, files or fields the caller can mend
  kNotFound = 3,
  kPrecondition = 4,  ///< it exists already, or is in the wrong state
  kUnavailable = 5,   ///< no server, overloaded, or out of time
  kPermission = 6,
  kDataCorrupt = 7,
  kCancelled = 8,  ///< the job was cancelled, or the wait was interrupted
  kUnimplemented = 9,
  kInternal = 10,
};

ExitCode ExitCodeOf(StatusCode code);

/// The table for --help.
std::string ExitCodeHelp();

}  // namespace sbora::client
