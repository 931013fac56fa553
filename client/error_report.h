/// How an error is told to the user:
///
///     error: model "smollm3" is not in project "default" [MODEL_NOT_FOUND]
///       spec.model: ...
///     hint: sbora-client models list shows what is there
#pragma once

#include <string>

#include "common/status.h"

namespace sbora::client {

struct ErrorContext {
  std::string server;   ///< host:port asked
  std::string command;  ///< "models get", for --help
};

/// All lines, each ended by a line feed.
std::string FormatError(const Status& status, const ErrorContext& context);

/// What to do next, "" when there is nothing useful to say.
std::string HintFor(const Status& status, const ErrorContext& context);

}  // namespace sbora::client
