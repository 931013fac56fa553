/// Settings of sbora-server: sbora.config.v1.ServerConfig out of a file and flags, defaults filled in, checked.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "common/status.h"
#include "common/storage/object_store.h"
#include "sbora/config/v1/server.pb.h"
#include "server/scheduler/types.h"

namespace sbora::server {

struct ServerOptions {
  config::v1::ServerConfig config;
  bool with_worker = false;  ///< start sbora-worker beside this program
};

/// Flags win over `--config FILE` (YAML or JSON with the field names of ServerConfig), which wins over the defaults.
/// `exit_code` is set, and the caller ends, when --help or --version was answered.
/// Errors: INVALID_ARGUMENT BAD_FLAG, BAD_CONFIG_FILE.
StatusOr<ServerOptions> ParseServerFlags(int argc, char** argv, std::optional<int>* exit_code);

/// Fills in every default.
void FillDefaults(config::v1::ServerConfig& config);

/// Errors: INVALID_ARGUMENT INSECURE_LISTEN for an address that is not loopback without TLS and tokens, BAD_ADDRESS,
/// BAD_TLS (one of the pair is missing), BAD_TIMING.
Status CheckConfig(const config::v1::ServerConfig& config);

SchedulerConfig SchedulerConfigOf(const config::v1::ServerConfig& config);
/// Reads the credentials file. Errors: of the file; INVALID_ARGUMENT BAD_CREDENTIALS_FILE.
StatusOr<ObjectStoreOptions> ObjectStoreOptionsOf(const config::v1::ServerConfig& config);

struct HostPort {
  std::string host;
  int port = 0;
};
/// "127.0.0.1:7400", "[::1]:0", "localhost:7400". Errors: INVALID_ARGUMENT BAD_ADDRESS.
StatusOr<HostPort> ParseHostPort(const std::string& address, std::string_view flag);

}  // namespace sbora::server
