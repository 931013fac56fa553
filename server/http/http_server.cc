#include "server/http/http_server.h"

#define CPPHTTPLIB_OPENSSL_SUPPORT
#define CPPHTTPLIB_ZLIB_SUPPORT
#include <httplib.h>
#include <pthread.h>

#include <atomic>
#include <charconv>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/clock.h"
#include "common/logging.h"
#include "server/http/page_assets.h"

namespace sbora::server {
namespace {

constexpr const char* kJson = "application/json; charset=utf-8";
constexpr std::chrono::milliseconds kStreamPoll{1000};
constexpr int kPollsPerKeepalive = 10;
constexpr const char* kJobPattern = R"(/api/jobs/(projects/[a-z0-9-]+/fineTuningJobs/[a-z0-9-]+))";

int HttpCode(StatusCode code) {
  switch (code) {
    case StatusCode::kOk: return 200;
    case StatusCode::kInvalidArgument:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kOutOfRange: return 400;
    case StatusCode::kUnauthenticated: return 401;
    case StatusCode::kPermissionDenied: return 403;
    case StatusCode::kNotFound: return 404;
    case StatusCode::kAlreadyExists:
    case StatusCode::kAborted: return 409;
    case StatusCode::kResourceExhausted: return 429;
    case StatusCode::kCancelled: return 499;
    case StatusCode::kUnimplemented: return 501;
    case StatusCode::kUnavailable: return 503;
    case StatusCode::kDeadlineExceeded: return 504;
    case StatusCode::kUnknown:
    case StatusCode::kInternal:
    case StatusCode::kDataLoss: return 500;
  }
  return 500;
}

void SendError(httplib::Response& response, const Status& status) {
  const nlohmann::json body = {{"error",
                                {{"code", StatusCodeName(status.code())},
                                 {"reason", status.reason()},
                                 {"message", status.message()}}}};
  response.status = HttpCode(status.code());
  if (response.status == 401) response.set_header("WWW-Authenticate", "Bearer");
  response.set_content(body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), kJson);
}

std::string TextOf(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& known) {
    return known.what();
  }
}

void SendJson(httplib::Response& response, const StatusOr<std::string>& answer) {
  if (!answer.ok()) return SendError(response, answer.status());
  response.set_content(*answer, kJson);
}

std::string BearerToken(const httplib::Request& request) {
  constexpr std::string_view kPrefix = "Bearer ";
  const std::string value = request.get_header_value("Authorization");
  return value.starts_with(kPrefix) ? value.substr(kPrefix.size()) : "";
}

/// A number from a query parameter; OK with `fallback` when it is not given.
StatusOr<int64_t> NumberParameter(const httplib::Request& request, const char* name, int64_t fallback) {
  if (!request.has_param(name)) return fallback;
  const std::string text = request.get_param_value(name);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return InvalidArgument("BAD_PARAMETER", fmt::format("{}=\"{}\" is not a whole number", name, text));
  }
  return value;
}

std::string ProjectParameter(const httplib::Request& request) {
  return request.has_param("project") ? request.get_param_value("project") : "default";
}

std::string EventBlock(const WatchMessage& message) {
  std::string block;
  if (message.sequence > 0) block += fmt::format("id: {}\n", message.sequence);
  block += fmt::format("event: {}\ndata: {}\n\n", message.kind, message.data);
  return block;
}

}  // namespace

struct HttpServer::Impl {
  HttpServerOptions options;
  std::unique_ptr<httplib::Server> server;
  std::jthread listener;
  std::atomic<bool> stopping{false};
  std::atomic<int> streams{0};
  int port = 0;

  void AddRoutes();
  void AddPage();
  void AddApi();
  void AddJobApi();
  void StreamJob(const httplib::Request& request, httplib::Response& response);
  Status Bind();
};

void HttpServer::Impl::AddRoutes() {
  server->set_default_headers({{"X-Content-Type-Options", "nosniff"}, {"Referrer-Policy", "no-referrer"}});
  server->set_payload_max_length(64 * 1024);
  server->set_read_timeout(10, 0);
  server->set_write_timeout(10, 0);
  server->set_keep_alive_max_count(100);
  // httplib's default is SO_REUSEPORT, with which two servers would share one port and get half of the requests each.
  server->set_socket_options([](socket_t socket) {
    const int yes = 1;
    ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  });
  server->set_exception_handler([](const httplib::Request& request, httplib::Response& response, std::exception_ptr error) {
    LogError("An HTTP handler failed", {{"path", request.path}, {"error", TextOf(error)}});
    SendError(response, Internal("HTTP_HANDLER_FAILED", "the server could not answer this request; its log tells why"));
  });
  server->set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
    if (!request.path.starts_with("/api/")) return httplib::Server::HandlerResponse::Unhandled;
    response.set_header("Cache-Control", "no-store");
    const Status allowed = options.backend->Authorize(BearerToken(request));
    if (allowed.ok()) return httplib::Server::HandlerResponse::Unhandled;
    SendError(response, allowed);
    return httplib::Server::HandlerResponse::Handled;
  });
  server->set_error_handler([](const httplib::Request& request, httplib::Response& response) {
    if (!response.body.empty()) return;
    const int code = response.status;
    SendError(response, code == 404 ? NotFound("NO_SUCH_PAGE", fmt::format("nothing is at {}", request.path))
                                    : InvalidArgument("BAD_REQUEST", fmt::format("the request is refused with HTTP status {}", code)));
    response.status = code;
  });
  AddPage();
  AddApi();
  AddJobApi();
}

void HttpServer::Impl::AddPage() {
  for (const char* path : {"/", "/style.css", "/app.js", "/curves.js", "/favicon.svg", "/chart.js"}) {
    server->Get(path, [](const httplib::Request& request, httplib::Response& response) {
      const PageAsset* asset = FindPageAsset(request.path);
      response.set_header("Content-Security-Policy",
                          "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'");
      response.set_header("Cache-Control", "no-cache");
      response.set_content(asset->content.data(), asset->content.size(), std::string(asset->content_type));
    });
  }
  server->Get("/livez", [](const httplib::Request&, httplib::Response& response) { response.set_content("ok\n", "text/plain"); });
  server->Get("/readyz", [this](const httplib::Request&, httplib::Response& response) {
    const bool ready = options.backend->Ready();
    response.status = ready ? 200 : 503;
    response.set_content(ready ? "ok\n" : "not serving\n", "text/plain");
  });
  server->Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
    response.set_content(options.backend->Metrics(), "text/plain; version=0.0.4; charset=utf-8");
  });
}

void HttpServer::Impl::AddApi() {
  ApiBackend* backend = options.backend;
  server->Get("/api/server", [backend](const httplib::Request&, httplib::Response& response) {
    response.set_content(backend->ServerInfo(), kJson);
  });
  server->Get("/api/summary", [backend](const httplib::Request& request, httplib::Response& response) {
    SendJson(response, backend->Summary(ProjectParameter(request)));
  });
  server->Get("/api/workers", [backend](const httplib::Request&, httplib::Response& response) {
    SendJson(response, backend->ListWorkers());
  });
  server->Get("/api/jobs", [backend](const httplib::Request& request, httplib::Response& response) {
    const StatusOr<int64_t> page_size = NumberParameter(request, "pageSize", 50);
    if (!page_size.ok()) return SendError(response, page_size.status());
    if (*page_size < 0 || *page_size > 1000) {
      return SendError(response, InvalidArgument("BAD_PARAMETER", fmt::format("pageSize={} is outside [0, 1000]", *page_size)));
    }
    SendJson(response, backend->ListJobs(ProjectParameter(request), static_cast<int>(*page_size),
                                         request.get_param_value("pageToken")));
  });
}

void HttpServer::Impl::AddJobApi() {
  ApiBackend* backend = options.backend;
  const std::string job = kJobPattern;
  server->Get(job, [backend](const httplib::Request& request, httplib::Response& response) {
    SendJson(response, backend->GetJob(request.matches[1]));
  });
  server->Get(job + "/metrics", [backend](const httplib::Request& request, httplib::Response& response) {
    SendJson(response, backend->JobMetrics(request.matches[1]));
  });
  server->Get(job + "/events", [backend](const httplib::Request& request, httplib::Response& response) {
    SendJson(response, backend->JobEvents(request.matches[1]));
  });
  server->Get(job + "/watch", [this](const httplib::Request& request, httplib::Response& response) {
    StreamJob(request, response);
  });
}

void HttpServer::Impl::StreamJob(const httplib::Request& request, httplib::Response& response) {
  const StatusOr<int64_t> after = NumberParameter(request, "after", 0);
  if (!after.ok()) return SendError(response, after.status());
  StatusOr<std::unique_ptr<WatchCursor>> opened = options.backend->Watch(request.matches[1], *after);
  if (!opened.ok()) return SendError(response, opened.status());
  if (streams.fetch_add(1) >= options.threads / 2) {
    streams.fetch_sub(1);
    return SendError(response, Unavailable("TOO_MANY_STREAMS", fmt::format("{} event streams are open, which is the limit; "
                                                                           "close another page and try again",
                                                                           options.threads / 2)));
  }
  // shared: std::function wants a copyable callable; httplib keeps the only one.
  std::shared_ptr<WatchCursor> cursor = std::move(opened).value();
  auto quiet_polls = std::make_shared<int>(0);
  response.set_header("X-Accel-Buffering", "no");
  response.set_chunked_content_provider(
      "text/event-stream",
      [this, cursor, quiet_polls](size_t, httplib::DataSink& sink) {
        const StatusOr<std::vector<WatchMessage>> messages = cursor->Next(kStreamPoll);
        if (stopping || !messages.ok()) return false;
        std::string text;
        for (const WatchMessage& message : *messages) text += EventBlock(message);
        *quiet_polls = text.empty() ? *quiet_polls + 1 : 0;
        if (*quiet_polls >= kPollsPerKeepalive) {
          text = ": still here\n\n";
          *quiet_polls = 0;
        }
        if (!text.empty() && !sink.write(text.data(), text.size())) return false;
        if (cursor->Done()) sink.done();
        return true;
      },
      [this](bool) { streams.fetch_sub(1); });
}

Status HttpServer::Impl::Bind() {
  if (options.port == 0) {
    port = server->bind_to_any_port(options.host);
    if (port <= 0) port = -1;
  } else {
    port = server->bind_to_port(options.host, options.port) ? options.port : -1;
  }
  if (port > 0) return OkStatus();
  return Unavailable("HTTP_LISTEN", fmt::format("cannot listen for HTTP on {}:{}; is the port in use? --http-listen {}:0 takes "
                                                "any free one",
                                                options.host, options.port, options.host));
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  if (options.tls_certificate.empty()) {
    impl->server = std::make_unique<httplib::Server>();
  } else {
    impl->server = std::make_unique<httplib::SSLServer>(options.tls_certificate.c_str(), options.tls_key.c_str());
    if (!impl->server->is_valid()) {
      return InvalidArgument("BAD_CERTIFICATE", fmt::format("cannot use certificate {} with key {}; both must be PEM files, and the "
                                                            "key the certificate's own",
                                                            options.tls_certificate.string(), options.tls_key.string()));
    }
  }
  const int threads = options.threads;
  impl->server->new_task_queue = [threads] { return new httplib::ThreadPool(static_cast<size_t>(threads)); };
  impl->AddRoutes();
  const Status bound = impl->Bind();
  if (!bound.ok()) return bound;
  Impl* raw = impl.get();
  impl->listener = std::jthread([raw] {
    pthread_setname_np(pthread_self(), "http");
    raw->server->listen_after_bind();
  });
  // stop() has no effect on a server that does not run yet.
  while (!raw->server->is_running()) SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(1), {});
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() {
  impl_->stopping = true;
  impl_->server->stop();
  impl_->listener.join();
}

int HttpServer::port() const { return impl_->port; }

}  // namespace sbora::server
