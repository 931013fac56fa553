#include "common/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sbora {
namespace {

using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  TempDirectory folder_ = *TempDirectory::Create(::testing::TempDir(), "file");
};

TEST_F(FileTest, IsReadUpToItsLimitAndNotBeyond) {
  const std::filesystem::path file = folder_.path() / "text";
  ASSERT_TRUE(WriteFileAtomic(file, "0123456789").ok());
  EXPECT_EQ(ReadFile(file, 10).value(), "0123456789");
  const Status status = ReadFile(file, 9).status();
  EXPECT_EQ(status.code(), StatusCode::kOutOfRange);
  EXPECT_EQ(status.reason(), "FILE_TOO_LARGE");
  EXPECT_THAT(status.message(), HasSubstr(file.string() + " is larger than 9 bytes"));
}

TEST_F(FileTest, AFolderIsNone) {
  for (const Status& status : {ReadFile(folder_.path(), 10).status(), MappedFile::Open(folder_.path()).status()}) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.reason(), "NOT_A_FILE");
    EXPECT_THAT(status.message(), HasSubstr(folder_.path().string() + " is "));
    EXPECT_THAT(status.message(), HasSubstr("; name "));
  }
}

TEST_F(FileTest, WhatIsNoRegularFileIsReadButNotMapped) {
  EXPECT_EQ(ReadFile("/dev/null", 10).value(), "");
  const Status status = MappedFile::Open("/dev/null").status();
  EXPECT_EQ(status.reason(), "NOT_A_FILE");
  EXPECT_THAT(status.message(), HasSubstr("/dev/null is no regular file"));
}

}  // namespace
}  // namespace sbora
