#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/file.h"
#include "tests/unit/client/fake_server.h"

namespace sbora::client {
namespace {

using ::testing::HasSubstr;

class PullTest : public ::testing::Test {
 protected:
  PullTest() {
    *files_.Add() = server_.AddFile("adapter_config.json", "{}");
    *files_.Add() = server_.AddFile("adapter_model.safetensors", std::string(300000, 'w'));
    *files_.Add() = server_.AddFile("manifest.json", "{\"files\": []}");
  }

  Status Pull(bool force = false, const std::string& manifest = "") {
    return server_.NewClient()->Pull(files_, manifest, target_, {.force = force, .stop = {}, .progress = {}});
  }
  /// Names under the parent: nothing half-done may stay there.
  size_t LeftOvers() {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(parent_.path()))
      count += entry.path() != target_ ? 1 : 0;
    return count;
  }
  std::string Text(const std::string& name) {
    const auto text = ReadFile(target_ / name, 1 << 20);
    return text.ok() ? *text : text.status().ToString();
  }

  FakeServer server_;
  google::protobuf::RepeatedPtrField<v1::File> files_;
  TempDirectory parent_ = *TempDirectory::Create(::testing::TempDir(), "pull");
  std::filesystem::path target_ = parent_.path() / "out";
};

TEST_F(PullTest, PutsEveryFileInAFreshFolder) {
  const Status status = Pull(false, files_.Get(2).sha256());
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Text("adapter_config.json"), "{}");
  EXPECT_EQ(Text("adapter_model.safetensors"), std::string(300000, 'w'));
  EXPECT_EQ(LeftOvers(), 0u);
}

TEST_F(PullTest, OtherBytesAreDataLossAndLeaveNothing) {
  server_.objects["projects/default/objects/adapter_model.safetensors"][70000] = 'X';
  const Status status = Pull();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(status.reason(), "HASH_MISMATCH");
  EXPECT_FALSE(std::filesystem::exists(target_));
  EXPECT_EQ(LeftOvers(), 0u);
}

TEST_F(PullTest, ManifestMustBeTheCommittedOne) {
  EXPECT_EQ(Pull(false, std::string(64, '0')).reason(), "HASH_MISMATCH");
  EXPECT_FALSE(std::filesystem::exists(target_));
}

TEST_F(PullTest, NamesThatLeadOutOfTheFolderAreRefused) {
  for (const char* name : {"../evil", "/etc/passwd", "a/b", "", ".", "..", ".hidden", "a b"}) {
    files_.Mutable(0)->set_path(name);
    EXPECT_EQ(Pull().reason(), "BAD_FILE_NAME") << name;
  }
  files_.Mutable(0)->set_path("manifest.json");  // twice
  EXPECT_EQ(Pull().reason(), "BAD_FILE_NAME");
  EXPECT_FALSE(std::filesystem::exists(parent_.path() / "evil"));
}

TEST_F(PullTest, AHashThatIsNoneIsDataLoss) {
  files_.Mutable(1)->set_sha256("abc");
  const Status status = Pull();
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(status.reason(), "BAD_DIGEST");
  EXPECT_THAT(status.message(), HasSubstr("\"abc\" as SHA-256 of adapter_model.safetensors"));
  EXPECT_EQ(LeftOvers(), 0u);
}

TEST_F(PullTest, NoFilesAreNoEmptyFolder) {
  files_.Clear();
  const Status status = Pull();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.reason(), "NO_FILES");
  EXPECT_THAT(status.message(), HasSubstr("nothing to put in " + target_.string()));
  EXPECT_FALSE(std::filesystem::exists(target_));
}

TEST_F(PullTest, FullFolderNeedsForceAndIsReplacedWhole) {
  std::filesystem::create_directory(target_);
  ASSERT_TRUE(WriteFileAtomic(target_ / "old.txt", "old").ok());
  EXPECT_EQ(Pull().reason(), "DIRECTORY_NOT_EMPTY");
  EXPECT_EQ(Text("old.txt"), "old");
  ASSERT_TRUE(Pull(true).ok());
  EXPECT_FALSE(std::filesystem::exists(target_ / "old.txt"));
  EXPECT_EQ(Text("adapter_config.json"), "{}");
  EXPECT_EQ(LeftOvers(), 0u);
}

TEST_F(PullTest, FailureLeavesTheOldFolderInPlace) {
  std::filesystem::create_directory(target_);
  ASSERT_TRUE(WriteFileAtomic(target_ / "old.txt", "old").ok());
  server_.objects.clear();
  EXPECT_EQ(Pull(true).code(), StatusCode::kNotFound);
  EXPECT_EQ(Text("old.txt"), "old");
}

TEST_F(PullTest, EmptyFolderIsFresh) {
  std::filesystem::create_directory(target_);
  EXPECT_TRUE(Pull().ok());
}

TEST_F(PullTest, AFileInTheWayIsNoFolder) {
  ASSERT_TRUE(WriteFileAtomic(target_, "x").ok());
  EXPECT_EQ(Pull(true).reason(), "NOT_A_DIRECTORY");
}

}  // namespace
}  // namespace sbora::client
