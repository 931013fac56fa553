/// The program without its process: what main and the tests call.
#pragma once

#include <grpcpp/channel.h>

#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "client/exit_codes.h"

namespace sbora::client {

struct CliOptions {
  std::ostream& out;      ///< results; must outlive the call
  std::ostream& err;      ///< progress, messages, errors; must outlive the call
  bool terminal = false;  ///< err is a terminal
  /// Instead of a channel to --server, for tests.
  std::shared_ptr<grpc::Channel> channel;
};

/// Parses `arguments` (without the program's name) and runs the verb. Never throws.
ExitCode RunCli(const std::vector<std::string>& arguments, const CliOptions& options);

}  // namespace sbora::client
