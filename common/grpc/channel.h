/// Client channels of sbora: TLS or loopback plaintext, bearer token, keepalive, deadlines.
///
///     SBORA_ASSIGN_OR_RETURN(auto channel, CreateChannel("127.0.0.1:7400", {.token_file = "/etc/sbora/token"}));
///     auto stub = v1::FineTuningService::NewStub(channel);
///     grpc::ClientContext context;
///     SetDeadline(context);
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

#include "common/status.h"

namespace sbora {

/// A unary call without a deadline of its own gets this one; streams have none.
inline constexpr std::chrono::seconds kDefaultCallDeadline{60};

struct ChannelOptions {
  /// PEM file of the CA that signed the server's certificate. Empty: plaintext, which is for loopback only.
  std::filesystem::path tls_ca = {};
  /// File that holds the bearer token; its first line without blanks. Empty: no token. Read again when it changes
  /// (checked at most once a second), so that tokens rotate without a restart. Never logged.
  std::filesystem::path token_file = {};
  /// Largest message taken, bytes.
  int max_message_bytes = 4 * 1024 * 1024;
  /// Pings on an idle connection; a dead peer is noticed after their sum.
  std::chrono::milliseconds keepalive_time{20'000};
  std::chrono::milliseconds keepalive_timeout{10'000};
};

/// `address` is host:port (or unix:path). The channel connects when it is first used and reconnects by itself (back-off
/// 200 ms to 5 s). Errors: InvalidArgument INSECURE_ADDRESS for a non-loopback address without TLS, BAD_ADDRESS,
/// NotFound and so on when the CA or the token file cannot be read now.
StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const std::string& address, const ChannelOptions& options);

/// Sets the call's deadline that far from now.
void SetDeadline(grpc::ClientContext& context, std::chrono::milliseconds timeout = kDefaultCallDeadline);

/// True for "localhost", 127.0.0.0/8, [::1] and unix sockets, each with or without a port.
bool IsLoopbackAddress(std::string_view address);

}  // namespace sbora
