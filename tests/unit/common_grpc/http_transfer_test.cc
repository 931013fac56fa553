/// Presigned transfers against a real HTTP server, and what comes of its answers.
#define CPPHTTPLIB_OPENSSL_SUPPORT
#define CPPHTTPLIB_ZLIB_SUPPORT
#include "common/grpc/http_transfer.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>

#include <thread>

#include "common/file.h"

namespace sbora {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kBytes = "0123456789";

/// Ten bytes: under /object, under /whole whatever the offset, under /broken for four of them. /status/N answers so.
class HttpTransferTest : public ::testing::Test {
 protected:
  HttpTransferTest() {
    http_.Get("/object", [](const httplib::Request&, httplib::Response& response) {  // httplib obeys Range itself
      response.set_content(kBytes, "application/octet-stream");
    });
    http_.Get("/whole", [](const httplib::Request&, httplib::Response& response) {  // as a server that knows no Range
      response.status = 200;
      response.set_chunked_content_provider("application/octet-stream", [](size_t, httplib::DataSink& sink) {
        const bool written = sink.write(kBytes, 10);
        sink.done();
        return written;
      });
    });
    http_.Get("/broken", [](const httplib::Request&, httplib::Response& response) {
      response.set_content_provider(10, "application/octet-stream", [](size_t offset, size_t, httplib::DataSink& sink) {
        return offset == 0 && sink.write(kBytes, 4);
      });
    });
    const auto answer = [](const httplib::Request& request, httplib::Response& response) {
      response.status = std::stoi(request.matches[1]);
      response.set_content("<Error>secret</Error>", "application/xml");
    };
    http_.Get(R"(/status/(\d+))", answer);
    http_.Put(R"(/status/(\d+))", answer);
    http_.Put("/object", [this](const httplib::Request& request, httplib::Response&) { stored_ = request.body; });
    port_ = http_.bind_to_any_port("127.0.0.1");
    thread_ = std::jthread([this] { http_.listen_after_bind(); });
    while (!http_.is_running()) std::this_thread::yield();  // stop() before that would stop nothing
  }
  ~HttpTransferTest() override { http_.stop(); }

  std::string Url(const std::string& path) const {
    return fmt::format("http://127.0.0.1:{}{}?signature=hidden", port_, path);
  }
  Status Get(const std::string& path, int64_t offset = 0) {
    got_.clear();
    return HttpGet(Url(path), offset, {}, {}, [this](std::string_view bytes) {
      got_ += bytes;
      return OkStatus();
    });
  }
  Status Put(const std::string& path, const std::string& bytes, int64_t size) {
    EXPECT_TRUE(WriteFileAtomic(folder_.path() / "in", bytes).ok());
    return HttpPutFile(Url(path), folder_.path() / "in", size, {}, {}, {});
  }

  TempDirectory folder_ = *TempDirectory::Create(::testing::TempDir(), "http-transfer");
  httplib::Server http_;
  int port_ = 0;
  std::string stored_;
  std::string got_;
  std::jthread thread_;
};

TEST_F(HttpTransferTest, GetsFromAnOffsetAndPutsAFile) {
  ASSERT_TRUE(Get("/object").ok());
  EXPECT_EQ(got_, kBytes);
  const Status rest = Get("/object", 7);
  ASSERT_TRUE(rest.ok()) << rest;
  EXPECT_EQ(got_, "789");
  const Status put = Put("/object", "abc", 3);
  ASSERT_TRUE(put.ok()) << put;
  EXPECT_EQ(stored_, "abc");
}

TEST_F(HttpTransferTest, AServerThatIgnoresTheOffsetIsRefusedBeforeAByteIsTaken) {
  const Status status = Get("/whole", 7);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.reason(), "HTTP_NO_RANGE");
  EXPECT_THAT(status.message(), HasSubstr("HTTP 200 to a request from byte 7 on"));
  EXPECT_EQ(got_, "");
}

TEST_F(HttpTransferTest, AnswersThatMayChangeAreUnavailableAndOthersRefusals) {
  for (const int code : {408, 429, 500, 503, 301, 400, 403, 404, 416}) {
    const bool later = code == 408 || code == 429 || code >= 500;
    for (const Status& status : {Get(fmt::format("/status/{}", code)), Put(fmt::format("/status/{}", code), "abc", 3)}) {
      EXPECT_EQ(status.code(), later ? StatusCode::kUnavailable : StatusCode::kFailedPrecondition) << status;
      EXPECT_EQ(status.reason(), later ? "HTTP_UNAVAILABLE" : "HTTP_REFUSED") << status;
      EXPECT_THAT(status.message(), HasSubstr(fmt::format("the object store answered HTTP {}", code)));
      EXPECT_THAT(status.message(), HasSubstr(later ? "try again later" : "may have run out"));
      EXPECT_THAT(status.message(), Not(HasSubstr("hidden")));
    }
    EXPECT_EQ(got_, "") << "the text of an error is no object";
  }
}

TEST_F(HttpTransferTest, ABrokenConnectionIsUnavailableAndTellsHowFarItCame) {
  const Status broken = Get("/broken");
  EXPECT_EQ(broken.code(), StatusCode::kUnavailable);
  EXPECT_EQ(broken.reason(), "HTTP_UNAVAILABLE");
  EXPECT_THAT(broken.message(), HasSubstr("broke after 4 bytes"));
  http_.stop();
  thread_.join();
  const Status nobody = Get("/object");
  EXPECT_EQ(nobody.reason(), "HTTP_UNAVAILABLE") << nobody;
  EXPECT_THAT(nobody.message(), HasSubstr("broke after 0 bytes"));
  EXPECT_THAT(nobody.message(), Not(HasSubstr("hidden")));
}

TEST_F(HttpTransferTest, AFileThatIsShorterThanAnnouncedIsDataLoss) {
  const Status status = Put("/object", "abc", 5);
  EXPECT_EQ(status.code(), StatusCode::kDataLoss) << status;
  EXPECT_EQ(status.reason(), "FILE_SHRANK");
  EXPECT_THAT(status.message(), HasSubstr((folder_.path() / "in").string() + " got shorter"));
}

}  // namespace
}  // namespace sbora
