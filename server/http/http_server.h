/// The server's HTTP port: live page, /metrics, /livez, /readyz, the page's JSON API and its server-sent events.
///
///     SBORA_ASSIGN_OR_RETURN(auto http, HttpServer::Start({.host = "127.0.0.1", .port = 0, .backend = &backend}));
///     Log(http->port());
///
/// Thread-safe. Owns one listening thread and a pool of `threads`; a stream of events holds one of them, so streams are
/// limited to half of the pool and refused with 503 above that. The destructor stops and joins all of them.
/// Everything under /api needs the backend's permission; page, metrics and health are open.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/status.h"
#include "server/http/api_backend.h"

namespace sbora::server {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;  ///< 0 for any
  ApiBackend* backend = nullptr;  ///< must outlive the server
  int threads = 32;
  /// PEM files; both empty for plain HTTP.
  std::filesystem::path tls_certificate;
  std::filesystem::path tls_key;
};

class HttpServer {
 public:
  /// Errors: UNAVAILABLE HTTP_LISTEN naming host and port; INVALID_ARGUMENT BAD_CERTIFICATE.
  static StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// As bound.
  int port() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sbora::server
