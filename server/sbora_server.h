/// The whole server: store, scheduler, services, gRPC and HTTP ports. main.cc adds signals and exit codes; contract tests
/// run it in process.
///
///     SBORA_ASSIGN_OR_RETURN(auto server, SboraServer::Start(config));
///     ... server->address(), server->http_address() ...
///     server->Stop();   // also by the destructor
#pragma once

#include <grpcpp/channel.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "common/status.h"
#include "sbora/config/v1/server.pb.h"
#include "server/services/context.h"

namespace sbora::server {

class SboraServer {
 public:
  /// Answers once everything is loaded and SERVING. `config` is complete (FillDefaults). Errors: those of CheckConfig,
  /// store, object store, token file; UNAVAILABLE GRPC_LISTEN, HTTP_LISTEN.
  /// `check_program`: see ServiceContext.
  static StatusOr<std::unique_ptr<SboraServer>> Start(const config::v1::ServerConfig& config,
                                                      const std::filesystem::path& check_program = {});
  ~SboraServer();
  SboraServer(const SboraServer&) = delete;
  SboraServer& operator=(const SboraServer&) = delete;

  /// host:port as bound.
  const std::string& address() const;
  const std::string& http_address() const;
  /// A channel without a socket, for tests.
  std::shared_ptr<grpc::Channel> InProcessChannel();
  /// For tests: the parts behind the services.
  ServiceContext& services();

  /// NOT_SERVING, then finishes what is in flight for at most `grace`, then ends. Idempotent.
  void Stop(std::chrono::milliseconds grace = std::chrono::seconds(5));

 private:
  struct Impl;
  explicit SboraServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sbora::server
