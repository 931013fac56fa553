#include "server/services/upload_files.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "common/clock.h"
#include "common/file.h"

namespace sbora::server {
namespace {

constexpr int64_t kSize = int64_t{1} << 30;  // of a hole: it takes no room, but seconds to hash

/// How often this process has `file` open.
int Opened(const std::filesystem::path& file) {
  int opened = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code closed_meanwhile;
    opened += std::filesystem::read_symlink(entry.path(), closed_meanwhile) == file ? 1 : 0;
  }
  return opened;
}

TEST(UploadFilesTest, AFileThatIsCutOffWhileItIsHashedIsNamed) {
  const auto directory = TempDirectory::Create(::testing::TempDir(), "uploads");
  ASSERT_TRUE(directory.ok()) << directory.status();
  const auto uploads = UploadFiles::Create(directory->path());
  ASSERT_TRUE(uploads.ok()) << uploads.status();
  // Left by an earlier process: nobody here has hashed it.
  const std::filesystem::path part = std::filesystem::canonical(directory->path()) / "one.part";
  ASSERT_TRUE(WriteFileAtomic(part, "").ok());
  std::filesystem::resize_file(part, kSize);
  std::jthread other_program([&](const std::stop_token& stop) {
    // One descriptor is the writer's; with the second the hashing has begun.
    while (Opened(part) < 2 && !stop.stop_requested()) SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(1), stop);
    std::filesystem::resize_file(part, 0);
  });
  const Status shrunk = (*uploads)->Seal("one", kSize).status();
  EXPECT_EQ(shrunk.code(), StatusCode::kDataLoss) << shrunk;
  EXPECT_EQ(shrunk.reason(), "UPLOAD_SHRANK") << shrunk;
  EXPECT_THAT(shrunk.message(), ::testing::MatchesRegex(fmt::format(".*one.part ends at [0-9]+ of {} bytes; .*upload again", kSize)));
  other_program.join();
  EXPECT_EQ((*uploads)->Received("one"), 0) << "from here it starts again";
}

}  // namespace
}  // namespace sbora::server
