#include "common/grpc/channel.h"

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <grpcpp/support/client_interceptor.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "common/mutex.h"
#include "common/status_macros.h"

namespace sbora {
namespace {

constexpr int64_t kMaxTokenFileBytes = 16 * 1024;
constexpr int64_t kMaxCaFileBytes = 1024 * 1024;

/// The token of a file, read again when the file's time or size changed. Thread-safe.
class TokenSource {
 public:
  explicit TokenSource(std::filesystem::path path) : path_(std::move(path)) {}

  StatusOr<std::string> Token() {
    MutexLock lock(mutex_);
    const MonotonicTime now = SystemClock().Now();
    if (checked_ && now - *checked_ < std::chrono::seconds(1)) return token_;
    std::error_code error;
    const auto written = std::filesystem::last_write_time(path_, error);
    if (!error && checked_ && written == written_) {
      checked_ = now;
      return token_;
    }
    auto text = ReadFile(path_, kMaxTokenFileBytes);
    if (!text.ok()) {
      // Secret mounts are swapped by rename: the old token may well be good for this moment.
      if (checked_) return token_;
      return text.status().WithContext("token file");
    }
    std::string token = text->substr(0, text->find('\n'));
    std::erase_if(token, [](char c) { return c == ' ' || c == '\t' || c == '\r'; });
    const bool printable = std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c < 0x7f; });
    if (token.empty() || !printable) {
      return InvalidArgument("BAD_TOKEN_FILE", fmt::format("token file {} must hold the token as its first line, printable "
                                                           "ASCII without blanks", path_.string()));
    }
    token_ = std::move(token);
    written_ = written;
    checked_ = now;
    return token_;
  }

 private:
  const std::filesystem::path path_;
  Mutex mutex_;
  std::optional<MonotonicTime> checked_ SBORA_GUARDED_BY(mutex_);
  std::filesystem::file_time_type written_ SBORA_GUARDED_BY(mutex_);
  std::string token_ SBORA_GUARDED_BY(mutex_);
};

/// Puts the token on each call. An interceptor, because call credentials are refused on plaintext channels, which
/// loopback uses.
class TokenInterceptor : public grpc::experimental::Interceptor {
 public:
  explicit TokenInterceptor(std::shared_ptr<TokenSource> source) : source_(std::move(source)) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      // Without a token the server answers UNAUTHENTICATED, which says what to do.
      if (auto token = source_->Token(); token.ok()) {
        methods->GetSendInitialMetadata()->insert({"authorization", "Bearer " + *token});
      }
    }
    methods->Proceed();
  }

 private:
  const std::shared_ptr<TokenSource> source_;  // shared with the factory and other calls in flight
};

class TokenInterceptorFactory : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenInterceptorFactory(std::shared_ptr<TokenSource> source) : source_(std::move(source)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo*) override {
    return new TokenInterceptor(source_);  // gRPC deletes it with the call
  }

 private:
  const std::shared_ptr<TokenSource> source_;  // shared with the interceptors
};

grpc::ChannelArguments Arguments(const ChannelOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(options.max_message_bytes);
  arguments.SetMaxSendMessageSize(options.max_message_bytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(options.keepalive_time.count()));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(options.keepalive_timeout.count()));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  // Despite its name the time that one attempt to connect may take, TLS included. It must do for a server whose machine is
  // busy training; a dead address holds the next attempt up for no longer.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5000);
  // An own connection for each channel: two clients of one process then cannot starve one another's streams.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Our addresses are one host each; a proxy of the environment would see the token.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return arguments;
}

}  // namespace

bool IsLoopbackAddress(std::string_view address) {
  if (address.starts_with("unix:")) return true;
  std::string_view host = address;
  if (host.starts_with('[')) {
    const size_t end = host.find(']');
    return end != std::string_view::npos && host.substr(1, end - 1) == "::1";
  }
  if (const size_t colon = host.rfind(':'); colon != std::string_view::npos) host = host.substr(0, colon);
  if (host == "localhost") return true;
  // Only digits and dots after "127.": a name such as 127.example.org is not loopback.
  return host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string_view::npos;
}

StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const std::string& address, const ChannelOptions& options) {
  const bool unix_socket = address.starts_with("unix:");
  const size_t colon = address.rfind(':');
  if (!unix_socket && (colon == std::string::npos || colon == 0 || colon + 1 == address.size())) {
    return InvalidArgument("BAD_ADDRESS", fmt::format("server address \"{}\" is not host:port", address))
        .WithViolation("server", "must be host:port, for example 127.0.0.1:7400");
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  if (options.tls_ca.empty()) {
    if (!IsLoopbackAddress(address)) {
      return InvalidArgument("INSECURE_ADDRESS",
                             fmt::format("server address {} is not on loopback and TLS is off; give the CA file of the "
                                         "server's certificate (--tls-ca)", address))
          .WithViolation("tls_ca", "required for a server that is not on loopback");
    }
    credentials = grpc::InsecureChannelCredentials();
  } else {
    SBORA_ASSIGN_OR_RETURN(std::string ca, ReadFile(options.tls_ca, kMaxCaFileBytes));
    credentials = grpc::SslCredentials({.pem_root_certs = std::move(ca), .pem_private_key = {}, .pem_cert_chain = {}});
  }
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!options.token_file.empty()) {
    auto source = std::make_shared<TokenSource>(options.token_file);
    SBORA_RETURN_IF_ERROR(source->Token().status());
    interceptors.push_back(std::make_unique<TokenInterceptorFactory>(std::move(source)));
  }
  return grpc::experimental::CreateCustomChannelWithInterceptors(address, credentials, Arguments(options),
                                                                 std::move(interceptors));
}

void SetDeadline(grpc::ClientContext& context, std::chrono::milliseconds timeout) {
  // gRPC converts to its own monotonic clock when the call starts, so a later jump of the wall clock does no harm.
  context.set_deadline(std::chrono::system_clock::now() + timeout);
}

}  // namespace sbora
