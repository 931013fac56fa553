#include "worker/agent/http_status.h"

#include <fmt/format.h>
#include <httplib.h>
#include <pthread.h>

#include <charconv>
#include <thread>
#include <utility>

#include "common/clock.h"

namespace sbora::agent {
namespace {

class Server : public HttpStatus {
 public:
  explicit Server(Options options) : options_(std::move(options)) {
    server_.Get("/metrics", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(options_.metrics(), "text/plain; version=0.0.4; charset=utf-8");
    });
    server_.Get("/livez", [this](const httplib::Request&, httplib::Response& response) {
      const bool alive = options_.alive();
      response.status = alive ? 200 : 503;
      response.set_content(alive ? "ok\n" : "the protocol loop stands still\n", "text/plain");
    });
    // httplib's default is SO_REUSEPORT, with which two workers would share one port and get half of the requests each.
    server_.set_socket_options([](socket_t socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
    server_.new_task_queue = [] { return new httplib::ThreadPool(2); };  // httplib deletes it
    server_.set_read_timeout(5, 0);
    server_.set_write_timeout(5, 0);
    server_.set_payload_max_length(64 * 1024);
  }
  ~Server() override {
    server_.stop();
  }

  Status Listen() {
    const size_t colon = options_.listen.rfind(':');
    int port = -1;
    if (colon != std::string::npos) {
      const std::string_view text = std::string_view(options_.listen).substr(colon + 1);
      const auto parsed = std::from_chars(text.data(), text.data() + text.size(), port);
      if (parsed.ptr != text.data() + text.size()) port = -1;
    }
    if (port < 0 || port > 65535) {
      return InvalidArgument("BAD_ADDRESS", fmt::format("--http-listen {} is not host:port", options_.listen))
          .WithViolation("http_listen", "must be host:port, for example 127.0.0.1:7402");
    }
    host_ = options_.listen.substr(0, colon);
    const std::string bare = host_.starts_with('[') ? host_.substr(1, host_.size() - 2) : host_;
    if (port == 0) {
      port = server_.bind_to_any_port(bare.c_str());
    } else if (!server_.bind_to_port(bare.c_str(), port)) {
      port = -1;
    }
    if (port <= 0) {
      return Unavailable("ADDRESS_IN_USE", fmt::format("cannot listen on --http-listen {}; is another program there?",
                                                       options_.listen));
    }
    port_ = port;
    thread_ = std::jthread([this] {
      pthread_setname_np(pthread_self(), "http");
      server_.listen_after_bind();
    });
    // stop() of a server that does not run yet would be lost.
    while (!server_.is_running()) SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(1), {});
    return OkStatus();
  }

  std::string address() const override { return fmt::format("{}:{}", host_, port_); }

 private:
  const Options options_;
  httplib::Server server_;
  std::string host_;
  int port_ = 0;
  std::jthread thread_;
};

}  // namespace

StatusOr<std::unique_ptr<HttpStatus>> HttpStatus::Start(Options options) {
  auto server = std::make_unique<Server>(std::move(options));
  if (Status status = server->Listen(); !status.ok()) return status;
  return std::unique_ptr<HttpStatus>(std::move(server));
}

}  // namespace sbora::agent
