/// sbora-worker's command line: every field of sbora.config.v1.WorkerConfig is a flag of the same name.
#pragma once

#include <string>
#include <variant>

#include "common/status.h"
#include "sbora/config/v1/worker.pb.h"

namespace sbora::agent {

/// Either the configuration with all defaults filled in and checked, or what the program is to print before it exits.
struct ExitWith {
  int code = 0;
  std::string text;
};

std::variant<config::v1::WorkerConfig, ExitWith> ParseFlags(int argc, const char* const* argv);

/// Fills what is not set. `program` is the agent's own path (for sbora-trainer beside it).
config::v1::WorkerConfig WithDefaults(config::v1::WorkerConfig config, const std::string& program);

/// InvalidArgument with a violation for each bad field; the text names the flag.
Status CheckConfig(const config::v1::WorkerConfig& config);

/// The host's name as an RFC 1034 label.
std::string WorkerNameOf(std::string host);

}  // namespace sbora::agent
