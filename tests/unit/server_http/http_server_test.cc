#define CPPHTTPLIB_OPENSSL_SUPPORT
#define CPPHTTPLIB_ZLIB_SUPPORT
#include "server/http/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <atomic>
#include <latch>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/clock.h"
#include "common/file.h"
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

/// A stream that is silent until it is told to end.
class OpenCursor final : public WatchCursor {
 public:
  explicit OpenCursor(const std::atomic<bool>& end) : end_(end) {}
  StatusOr<std::vector<WatchMessage>> Next(std::chrono::milliseconds) override {
    end_.wait(false);
    return std::vector<WatchMessage>{};
  }
  bool Done() const override { return end_; }

 private:
  const std::atomic<bool>& end_;
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
    if (streams_end != nullptr) return std::unique_ptr<WatchCursor>(std::make_unique<OpenCursor>(*streams_end));
    return std::unique_ptr<WatchCursor>(std::make_unique<ScriptedCursor>());
  }
  StatusOr<std::string> ListWorkers() override { return std::string("{\"workers\":[]}"); }
  std::string Metrics() override { return "sbora_jobs 1\n"; }

  bool ready = true;
  bool tokens = false;
  bool throws = false;
  int64_t watched_after = -1;
  const std::atomic<bool>* streams_end = nullptr;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto started = HttpServer::Start({.backend = &backend_, .tls_certificate = {}, .tls_key = {}});
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = std::move(started).value();
    client_ = PatientClient(server_->port());
  }

  /// Waits longer for an answer than a busy machine stands still.
  static std::unique_ptr<httplib::Client> PatientClient(int port) {
    auto client = std::make_unique<httplib::Client>("127.0.0.1", port);
    client->set_read_timeout(60);
    return client;
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
  const auto too_long = nlohmann::json::parse(Get("/" + std::string(10'000, 'a'))->body)["error"];
  EXPECT_EQ(too_long["reason"], "BAD_REQUEST");
  EXPECT_EQ(too_long["message"], "the request is refused with HTTP status 414");
  backend_.throws = true;
  const auto thrown = Get(kJob);
  EXPECT_EQ(thrown->status, 500);
  EXPECT_THAT(thrown->body, Not(HasSubstr("inside")));
}

TEST_F(HttpServerTest, ABadParameterIsNamedWithItsValue) {
  const std::pair<std::string, const char*> cases[] = {
      {"/api/jobs?pageSize=ten", "pageSize=\"ten\" is not a whole number"},
      {"/api/jobs?pageSize=1001", "pageSize=1001 is outside [0, 1000]"},
      {"/api/jobs?pageSize=-1", "pageSize=-1 is outside [0, 1000]"},
      {std::string(kJob) + "/watch?after=1.5", "after=\"1.5\" is not a whole number"},
  };
  for (const auto& [path, message] : cases) {
    const auto refused = Get(path);
    ASSERT_TRUE(refused) << path;
    EXPECT_EQ(refused->status, 400) << path;
    const nlohmann::json error = nlohmann::json::parse(refused->body)["error"];
    EXPECT_EQ(error["reason"], "BAD_PARAMETER") << path;
    EXPECT_EQ(error["message"], message);
  }
}

TEST_F(HttpServerTest, StreamsLeaveHalfOfTheThreadsToOthers) {
  std::atomic<bool> end = false;
  backend_.streams_end = &end;
  auto started = HttpServer::Start({.backend = &backend_, .threads = 4, .tls_certificate = {}, .tls_key = {}});
  ASSERT_TRUE(started.ok()) << started.status();
  std::latch open(2);
  std::vector<std::jthread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      const auto client = PatientClient((*started)->port());
      const auto stream = client->Get((std::string(kJob) + "/watch").c_str(), httplib::Headers{}, [&](const httplib::Response& response) {
        EXPECT_EQ(response.status, 200);
        open.count_down();
        return true;
      }, [](const char*, size_t) { return true; });
      EXPECT_TRUE(stream);
    });
  }
  open.wait();
  const auto third = PatientClient((*started)->port());
  const auto refused = third->Get((std::string(kJob) + "/watch").c_str());
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 503);
  const nlohmann::json error = nlohmann::json::parse(refused->body)["error"];
  EXPECT_EQ(error["reason"], "TOO_MANY_STREAMS");
  EXPECT_EQ(error["message"], "2 event streams are open, which is the limit; close another page and try again");
  EXPECT_EQ(third->Get("/api/jobs")->status, 200) << "everything else is answered";
  end = true;
  end.notify_all();
  readers.clear();
  // The ended streams give their places back just after their last byte.
  const MonotonicTime limit = SystemClock().Now() + std::chrono::seconds(60);
  int status = 503;
  while (status == 503 && SystemClock().Now() < limit) status = third->Get((std::string(kJob) + "/watch").c_str())->status;
  EXPECT_EQ(status, 200);
}

TEST_F(HttpServerTest, ACertificateThatIsNoneIsNamedWithItsKey) {
  const auto directory = TempDirectory::Create(::testing::TempDir(), "http");
  ASSERT_TRUE(directory.ok()) << directory.status();
  const std::filesystem::path certificate = directory->path() / "server.pem", key = directory->path() / "server.key";
  const auto start = [&] { return HttpServer::Start({.backend = &backend_, .tls_certificate = certificate, .tls_key = key}).status(); };
  const Status missing = start();
  ASSERT_TRUE(WriteFileAtomic(certificate, "no certificate").ok());
  ASSERT_TRUE(WriteFileAtomic(key, "no key").ok());
  for (const Status& bad : {missing, start()}) {
    EXPECT_EQ(bad.code(), StatusCode::kInvalidArgument) << bad;
    EXPECT_EQ(bad.reason(), "BAD_CERTIFICATE") << bad;
    for (const std::string& part : {certificate.string(), key.string(), std::string("both must be PEM files")}) {
      EXPECT_THAT(bad.message(), HasSubstr(part));
    }
  }
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
