#include "common/grpc/transfer_client.h"

#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include "common/file.h"
#include "common/grpc/channel.h"
#include "tests/integration/agent/fake_coordinator.h"

namespace sbora {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class TransferClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto folder = TempDirectory::Create(fs::temp_directory_path(), "sbora-transfer-test");
    ASSERT_TRUE(folder.ok());
    folder_ = std::make_unique<TempDirectory>(*std::move(folder));
    auto channel = CreateChannel(server_.address(), {});
    ASSERT_TRUE(channel.ok());
    client_ = std::make_unique<TransferClient>(
        *channel, TransferOptions{.backoff = {.initial = std::chrono::milliseconds(1), .max_attempts = 3}});
  }
  fs::path Write(const std::string& name, const std::string& bytes) {
    EXPECT_TRUE(WriteFileAtomic(folder_->path() / name, bytes).ok());
    return folder_->path() / name;
  }
  std::string Read(const std::string& name) {
    auto bytes = ReadFile(folder_->path() / name, 100'000'000);
    return bytes.ok() ? *bytes : bytes.status().ToString();
  }
  static std::string Bytes(size_t size) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 31 + (i >> 8));
    return bytes;
  }

  agent::FakeCoordinator server_;
  std::unique_ptr<TempDirectory> folder_;
  std::unique_ptr<TransferClient> client_;
};

TEST_F(TransferClientTest, UploadsAndDownloads) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{1024 * 1024}, size_t{3'000'001}}) {
    const std::string bytes = Bytes(size);
    int64_t told = 0;
    const auto file = client_->Upload("projects/default", Write("in", bytes), "name.bin", {},
                                      [&](int64_t done, int64_t) { told = done; });
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->path(), "name.bin");
    EXPECT_EQ(told, static_cast<int64_t>(size));
    EXPECT_EQ(server_.ObjectBytes(file->object()), bytes);
    const Status status = client_->Download(*file, folder_->path() / "out", {});
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(Read("out"), bytes);
    EXPECT_FALSE(fs::exists(folder_->path() / "out.part"));
  }
}

TEST_F(TransferClientTest, GoesOnAfterABreak) {
  const std::string bytes = Bytes(3'500'000);
  server_.BreakNextTransfer(2'000'000);
  const auto file = client_->Upload("projects/default", Write("in", bytes), "name.bin", {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(server_.ObjectBytes(file->object()), bytes);
  server_.BreakNextTransfer(1'000'000);
  ASSERT_TRUE(client_->Download(*file, folder_->path() / "out", {}).ok());
  EXPECT_EQ(Read("out"), bytes);
}

TEST_F(TransferClientTest, AServerThatTakesNoMoreIsUnavailableAfterSomeTries) {
  server_.StallUploads();
  const Status status = client_->Upload("projects/default", Write("in", "xyz"), "name.bin", {}).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(status.reason(), "UPLOAD_STALLED");
  EXPECT_THAT(status.message(), HasSubstr("uploading name.bin: the server took 0 of 3 bytes and no more; its log"));
}

TEST_F(TransferClientTest, AnUploadSealedWithoutAnObjectIsTheServersFault) {
  server_.SealWithoutObject();
  const Status status = client_->Upload("projects/default", Write("in", "xyz"), "name.bin", {}).status();
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_EQ(status.reason(), "UPLOAD_WITHOUT_OBJECT");
  EXPECT_THAT(status.message(), HasSubstr("uploading name.bin: the server sealed projects/default/uploads/"));
}

TEST_F(TransferClientTest, AFileThatShrinksMeanwhileIsDataLoss) {
  const fs::path path = Write("in", Bytes(3'000'000));
  const auto shrink = [&](int64_t, int64_t) { fs::resize_file(path, 1'500'000); };
  const Status status = client_->Upload("projects/default", path, "name.bin", {}, shrink).status();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(status.reason(), "FILE_SHRANK");
  EXPECT_THAT(status.message(), HasSubstr(path.string() + " got shorter while it was read"));
  EXPECT_THAT(status.message(), HasSubstr("it ends before byte 2097152"));
}

TEST_F(TransferClientTest, TakesUpAPartOfAnEarlierRun) {
  const std::string bytes = Bytes(2'000'000);
  const v1::File file = server_.FileOf("name.bin", bytes);
  Write("out.part", bytes.substr(0, 1'500'000));
  int64_t first = -1;
  ASSERT_TRUE(client_->Download(file, folder_->path() / "out", {}, [&](int64_t done, int64_t) {
                       if (first < 0) first = done;
                     }).ok());
  EXPECT_GT(first, 1'500'000);
  EXPECT_EQ(Read("out"), bytes);
}

TEST_F(TransferClientTest, WrongPartIsFetchedAnew) {
  const std::string bytes = Bytes(2'000'000);
  const v1::File file = server_.FileOf("name.bin", bytes);
  Write("out.part", std::string(1'000'000, 'x'));
  ASSERT_TRUE(client_->Download(file, folder_->path() / "out", {}).ok());
  EXPECT_EQ(Read("out"), bytes);
}

TEST_F(TransferClientTest, WrongBytesAreRefused) {
  const v1::File file = server_.FileOf("name.bin", Bytes(1000));
  server_.CorruptObject(file.object());
  const Status status = client_->Download(file, folder_->path() / "out", {});
  EXPECT_EQ(status.reason(), "HASH_MISMATCH");
  EXPECT_FALSE(fs::exists(folder_->path() / "out"));
  EXPECT_FALSE(fs::exists(folder_->path() / "out.part"));
}

TEST_F(TransferClientTest, WrongSizesAreRefused) {
  v1::File file = server_.FileOf("name.bin", Bytes(1000));
  file.set_size_bytes(999);
  EXPECT_EQ(client_->Download(file, folder_->path() / "out", {}).reason(), "SIZE_MISMATCH");
  file.set_size_bytes(1001);
  EXPECT_EQ(client_->Download(file, folder_->path() / "out", {}).code(), StatusCode::kDataLoss);
  EXPECT_FALSE(fs::exists(folder_->path() / "out"));
}

TEST_F(TransferClientTest, MissingObjectIsNotTriedAgain) {
  v1::File file = server_.FileOf("name.bin", "x");
  file.set_object("projects/default/objects/none");
  EXPECT_EQ(client_->Download(file, folder_->path() / "out", {}).reason(), "OBJECT_NOT_FOUND");
}

TEST_F(TransferClientTest, StopEndsIt) {
  std::stop_source stop;
  stop.request_stop();
  const v1::File file = server_.FileOf("name.bin", Bytes(1000));
  EXPECT_EQ(client_->Download(file, folder_->path() / "out", stop.get_token()).code(), StatusCode::kCancelled);
  EXPECT_EQ(client_->Upload("projects/default", Write("in", "x"), "n", stop.get_token()).status().code(),
            StatusCode::kCancelled);
}

}  // namespace
}  // namespace sbora
