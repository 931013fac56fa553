#define CPPHTTPLIB_OPENSSL_SUPPORT
#define CPPHTTPLIB_ZLIB_SUPPORT
#include "server/http/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <nlohmann/json.hpp>

#include "server/http/page_assets.h"

namespace sbora::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kJob = "/api/jobs/projects/default/fineTuningJobs/first";

class ScriptedCursor final : public WatchCursor {
 public:
  StatusOr<std::vector<WatchMessage>> Next(std::chrono::milliseconds) override {
    done_ = true;
    return std::vector<WatchMessage>{{7, "metric", "{\"step\":\"1\"}"}, {0, "progress", "{}"}};
  }
  bool Done() const override { return done_; }

 private:
  bool done_ = false;
};

class FakeBackend final : public ApiBackend {
 public:
  bool Ready() const override { return ready; }
  Status Authorize(std::string_view token) override {
    if (!tokens || token == "right") return OkStatus();
    if (token == "weak") return PermissionDenied("ROLE_NOT_ALLOWED", "no");
    return Unauthenticated("TOKEN_MISSING", "a token is needed");
  }
  std::string ServerInfo() override { return "{\"version\":\"1\"}"; }
  StatusOr<std::string> Summary(const std::string&) override { return std::string("{}"); }
  StatusOr<std::string> ListJobs(const std::string& project, int page_size, const std::string& page_token) override {
    return nlohmann::json{{"project", project}, {"size", page_size}, {"token", page_token}}.dump();
  }
  StatusOr<std::string> GetJob(const std::string& name) override {
    if (throws) throw std::runtime_error("inside");
    if (name == "projects/default/fineTuningJobs/first") return std::string("{\"name\":\"first\"}");
    return NotFound("WORK_NOT_FOUND", name + " does not exist");
  }
  StatusOr<std::string> JobMetrics(const std::string&) override { return std::string("{\"metrics\":[]}"); }
  StatusOr<std::string> JobEvents(const std::string&) override { return Unavailable("STORE_UNAVAILABLE", "later"); }
  StatusOr<std::unique_ptr<WatchCursor>> Watch(const std::string&, int64_t after) override {
    watched_after = after;
    return std::unique_ptr<WatchCursor>(std::make_unique<ScriptedCursor>());
  }
  StatusOr<std::string> ListWorkers() override { return std::string("{\"workers\":[]}"); }
  std::string Metrics() override { return "sbora_jobs 1\n"; }

  bool ready = true;
  bool tokens = false;
  bool throws = false;
  int64_t watched_after = -1;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto started = HttpServer::Start({.backend = &backend_, .tls_certificate = {}, .tls_key = {}});
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = std::move(started).value();
    client_ = std::make_unique<httplib::Client>("127.0.0.1", server_->port());
  }

  httplib::Result Get(const std::string& path, const std::string& token = "") {
    return client_->Get(path.c_str(), token.empty() ? httplib::Headers{} : httplib::Headers{{"Authorization", "Bearer " + token}});
  }

  FakeBackend backend_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<httplib::Client> client_;
};

TEST_F(HttpServerTest, ServesThePageFromItselfOnly) {
  const auto page = Get("/");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->status, 200);
  EXPECT_THAT(page->body, HasSubstr("<script src=\"/app.js\""));
  EXPECT_THAT(page->body, Not(HasSubstr("http://")));
  EXPECT_THAT(page->body, Not(HasSubstr("https://")));
  EXPECT_THAT(page->get_header_value("Content-Security-Policy"), HasSubstr("default-src 'self'"));
  EXPECT_EQ(page->get_header_value("X-Content-Type-Options"), "nosniff");
  for (const char* path : {"/app.js", "/curves.js", "/style.css", "/chart.js", "/favicon.svg"}) {
    const auto asset = Get(path);
    ASSERT_TRUE(asset) << path;
    EXPECT_EQ(asset->status, 200) << path;
    EXPECT_FALSE(asset->body.empty()) << path;
  }
}

TEST_F(HttpServerTest, ThePageNeverBuildsMarkupFromData) {
  for (const char* path : {"/app.js", "/curves.js"}) {
    const std::string_view script = FindPageAsset(path)->content;
    for (const char* banned : {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("}) {
      EXPECT_EQ(script.find(banned), std::string_view::npos) << banned << " in " << path;
    }
  }
}

TEST_F(HttpServerTest, HealthFollowsTheBackend) {
  EXPECT_EQ(Get("/livez")->status, 200);
  EXPECT_EQ(Get("/readyz")->status, 200);
  backend_.ready = false;
  EXPECT_EQ(Get("/readyz")->status, 503);
  EXPECT_EQ(Get("/livez")->status, 200);
  EXPECT_EQ(Get("/metrics")->body, "sbora_jobs 1\n");
}

TEST_F(HttpServerTest, ApiNeedsTheTokenAndTheRestDoesNot) {
  backend_.tokens = true;
  const auto refused = Get("/api/jobs");
  EXPECT_EQ(refused->status, 401);
  EXPECT_EQ(refused->get_header_value("WWW-Authenticate"), "Bearer");
  EXPECT_EQ(nlohmann::json::parse(refused->body)["error"]["reason"], "TOKEN_MISSING");
  EXPECT_EQ(Get("/api/jobs", "weak")->status, 403);
  EXPECT_EQ(Get("/api/jobs", "right")->status, 200);
  EXPECT_EQ(Get(std::string(kJob) + "/watch")->status, 401);
  for (const char* open : {"/", "/metrics", "/livez", "/readyz"}) EXPECT_EQ(Get(open)->status, 200) << open;
}

TEST_F(HttpServerTest, ErrorsKeepTheirReason) {
  EXPECT_EQ(Get(kJob)->status, 200);
  const auto missing = Get("/api/jobs/projects/default/fineTuningJobs/other");
  EXPECT_EQ(missing->status, 404);
  EXPECT_EQ(nlohmann::json::parse(missing->body)["error"]["reason"], "WORK_NOT_FOUND");
  EXPECT_EQ(Get(std::string(kJob) + "/events")->status, 503);
  EXPECT_EQ(Get("/api/jobs?pageSize=x")->status, 400);
  EXPECT_EQ(Get("/api/jobs?pageSize=1001")->status, 400);
  EXPECT_EQ(Get("/api/nothing")->status, 404);
  EXPECT_EQ(nlohmann::json::parse(Get("/nothing")->body)["error"]["reason"], "NO_SUCH_PAGE");
  backend_.throws = true;
  const auto thrown = Get(kJob);
  EXPECT_EQ(thrown->status, 500);
  EXPECT_THAT(thrown->body, Not(HasSubstr("inside")));
}

TEST_F(HttpServerTest, ListPassesItsParameters) {
  const auto body = nlohmann::json::parse(Get("/api/jobs?project=p&pageSize=7&pageToken=t")->body);
  EXPECT_EQ(body, (nlohmann::json{{"project", "p"}, {"size", 7}, {"token", "t"}}));
}

TEST_F(HttpServerTest, StreamsEventsUntilTheEnd) {
  const auto stream = Get(std::string(kJob) + "/watch?after=5");
  ASSERT_TRUE(stream);
  EXPECT_EQ(stream->get_header_value("Content-Type"), "text/event-stream");
  EXPECT_EQ(stream->body, "id: 7\nevent: metric\ndata: {\"step\":\"1\"}\n\nevent: progress\ndata: {}\n\n");
  EXPECT_EQ(backend_.watched_after, 5);
}

TEST_F(HttpServerTest, ATakenPortIsAnError) {
  FakeBackend other;
  const auto second = HttpServer::Start({.port = server_->port(), .backend = &other, .tls_certificate = {}, .tls_key = {}});
  // SO_REUSEPORT would let two servers share the port and lose half of the requests each.
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().reason(), "HTTP_LISTEN");
}

}  // namespace
}  // namespace sbora::server
