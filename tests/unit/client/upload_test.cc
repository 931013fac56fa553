#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file.h"
#include "tests/unit/client/fake_server.h"

namespace sbora::client {
namespace {

using ::testing::HasSubstr;

class UploadTest : public ::testing::Test {
 protected:
  LocalFile Put(const std::string& name, const std::string& bytes) {
    EXPECT_TRUE(WriteFileAtomic(folder_.path() / name, bytes).ok());
    return {folder_.path() / name, name};
  }

  FakeServer server_;
  TempDirectory folder_ = *TempDirectory::Create(::testing::TempDir(), "upload");
};

TEST_F(UploadTest, BytesArriveWholeAndInOrder) {
  std::string large(2'500'000, '\0');
  for (size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 31 % 251);
  int64_t last = 0;
  const auto uploads = server_.NewClient()->Upload({Put("a", large), Put("b", ""), Put("c", "xyz")}, {},
                                                   [&](int64_t done, int64_t total) {
                                                     EXPECT_EQ(total, 2'500'003);
                                                     EXPECT_GE(done, last);
                                                     last = done;
                                                   });
  ASSERT_TRUE(uploads.ok()) << uploads.status();
  ASSERT_EQ(uploads->size(), 3u);
  EXPECT_EQ(server_.uploads[(*uploads)[0].name()], large);
  EXPECT_EQ(server_.uploads[(*uploads)[2].name()], "xyz");
  EXPECT_TRUE((*uploads)[1].finished());
  EXPECT_EQ(last, 2'500'003);
}

TEST_F(UploadTest, FinishingLeavesTheServerTimeToReadTheFile) {
  const auto uploads = server_.NewClient()->Upload({Put("a", "xyz")}, {}, {});
  ASSERT_TRUE(uploads.ok()) << uploads.status();
  EXPECT_GT(server_.finish_time_allowed, 5 * kDefaultCallDeadline);
}

TEST_F(UploadTest, BrokenStreamGoesOnWhereTheServerIs) {
  const std::string large(3'000'000, 'q');
  server_.upload_breaks = 2;
  const auto uploads = server_.NewClient()->Upload({Put("a", large)}, {}, {});
  ASSERT_TRUE(uploads.ok()) << uploads.status();
  EXPECT_EQ(server_.uploads[uploads->front().name()], large);
  EXPECT_EQ(server_.upload_streams, 3);
}

TEST_F(UploadTest, AStreamThatMovesMayBreakAnyNumberOfTimes) {
  const std::string large(12'000'000, 'q');
  server_.upload_breaks = 11;  // more than the tries of an upload that stands still
  const auto uploads = server_.NewClient()->Upload({Put("a", large)}, {}, {});
  ASSERT_TRUE(uploads.ok()) << uploads.status();
  EXPECT_EQ(server_.upload_streams, 12);
}

TEST_F(UploadTest, AServerThatTakesNoMoreIsUnavailableAfterSomeTries) {
  server_.upload_stalls = true;
  const Status status = server_.NewClient()->Upload({Put("a", "xyz")}, {}, {}).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(status.reason(), "UPLOAD_STALLED");
  EXPECT_THAT(status.message(), HasSubstr("uploading a: the server took 0 of 3 bytes and no more"));
  EXPECT_THAT(status.message(), HasSubstr("its log"));
  EXPECT_GT(server_.upload_streams, 1);
}

TEST_F(UploadTest, AFileThatShrinksMeanwhileIsDataLoss) {
  const LocalFile file = Put("a", std::string(3'000'000, 'q'));
  const Status status =
      server_.NewClient()
          ->Upload({file}, {}, [&](int64_t, int64_t) { std::filesystem::resize_file(file.path, 1'500'000); })
          .status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(status.reason(), "FILE_SHRANK");
  EXPECT_THAT(status.message(), HasSubstr(file.path.string() + " got shorter"));
  EXPECT_THAT(status.message(), HasSubstr("2097152"));
  EXPECT_THAT(status.message(), HasSubstr("upload it again"));
}

TEST_F(UploadTest, MissingFileIsAnErrorBeforeAnyCall) {
  EXPECT_EQ(server_.NewClient()->Upload({{folder_.path() / "none", "none"}}, {}, {}).status().code(),
            StatusCode::kNotFound);
  EXPECT_TRUE(server_.uploads.empty());
}

}  // namespace
}  // namespace sbora::client
