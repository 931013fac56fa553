#include "worker/agent/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "common/file.h"
#include "common/ids.h"
#include "worker/agent/process.h"

namespace sbora::agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class JournalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto folder = TempDirectory::Create(fs::temp_directory_path(), "sbora-journal-test");
    ASSERT_TRUE(folder.ok());
    folder_ = std::make_unique<TempDirectory>(*std::move(folder));
  }
  Child Start(const std::string& lease_uid) {
    auto child = spawner_.Spawn({.program = "/bin/sleep",
                                 .arguments = {"1000"},
                                 .environment = {std::string(kLeaseVariable) + "=" + lease_uid},
                                 .working_directory = folder_->path(),
                                 .output = folder_->path() / "out",
                                 .cgroup_procs = std::nullopt});
    EXPECT_TRUE(child.ok()) << child.status();
    return *std::move(child);
  }
  fs::path MakeAttempt(const std::string& uid, const Journal& journal) {
    fs::create_directories(folder_->path() / "attempts" / uid);
    EXPECT_TRUE(WriteJournal(folder_->path() / "attempts" / uid, journal).ok());
    return folder_->path() / "attempts" / uid;
  }
  static bool EndsSoon(const Child& child) {
    const MonotonicTime limit = SystemClock().Now() + std::chrono::minutes(1);
    while (SystemClock().Now() < limit) {
      if (PeekExit(child)) return true;
      SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(5), {});
    }
    return false;
  }
  static void End(const Child& child) {
    KillGroup(child, SIGKILL);
    while (!ReapGroup(child)) {
    }
  }

  std::unique_ptr<TempDirectory> folder_;
  Spawner spawner_;
};

TEST_F(JournalTest, RoundTrip) {
  const Journal journal{.lease_uid = "u", .epoch = 3, .resource = "projects/p/fineTuningJobs/j", .attempt = 2,
                        .boot_id = "b", .cgroup = "/c", .ranks = {{.pid = 12, .start_time = 345}}};
  ASSERT_TRUE(WriteJournal(folder_->path(), journal).ok());
  const auto back = ReadJournal(folder_->path());
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->epoch, 3);
  EXPECT_EQ(back->cgroup, "/c");
  ASSERT_EQ(back->ranks.size(), 1U);
  EXPECT_EQ(back->ranks[0].start_time, 345U);
}

TEST_F(JournalTest, BrokenJournalsAreErrorsNotCrashes) {
  for (const char* text : {"", "[]", "{", "3", "{\"ranks\": [1, null, {\"pid\": \"x\"}], \"epoch\": \"y\"}"}) {
    ASSERT_TRUE(WriteFileAtomic(folder_->path() / "journal.json", text).ok());
    const auto journal = ReadJournal(folder_->path());
    EXPECT_TRUE(!journal.ok() || journal->epoch == 0) << text;
  }
}

TEST_F(JournalTest, AFileThatIsNoJournalIsNamed) {
  for (const char* text : {"", "[]", "{", "3"}) {
    ASSERT_TRUE(WriteFileAtomic(folder_->path() / "journal.json", text).ok());
    const Status read = ReadJournal(folder_->path()).status();
    EXPECT_EQ(read.code(), StatusCode::kDataLoss) << text;
    EXPECT_EQ(read.reason(), "BAD_JOURNAL") << text;
    EXPECT_THAT(read.message(), HasSubstr((folder_->path() / "journal.json").string() + " holds no JSON object"));
  }
}

TEST_F(JournalTest, AttemptsWhoseJournalIsDamagedAreCleanedUp) {
  const std::string uid = NewUuid7();
  const Child child = Start(uid);
  const fs::path attempt =
      MakeAttempt(uid, {.lease_uid = uid, .resource = "", .boot_id = BootId(), .cgroup = "", .ranks = {}});
  fs::resize_file(attempt / "journal.json", 5);
  const auto found = CleanUpAttempts(folder_->path() / "attempts");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_TRUE(EndsSoon(child));
  EXPECT_FALSE(fs::exists(attempt));
  End(child);
}

TEST_F(JournalTest, KillsTheRecordedProcess) {
  const Child child = Start("none");
  const std::string uid = NewUuid7();
  const fs::path attempt = MakeAttempt(uid, {.lease_uid = uid, .resource = "", .boot_id = BootId(), .cgroup = "",
                                             .ranks = {{.pid = child.pid, .start_time = child.start_time}}});
  const auto found = CleanUpAttempts(folder_->path() / "attempts");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(*found, 1);
  EXPECT_TRUE(EndsSoon(child));
  EXPECT_FALSE(fs::exists(attempt));
  End(child);
}

TEST_F(JournalTest, NeverKillsAReusedPid) {
  const Child child = Start("none");
  const std::string uid = NewUuid7();
  MakeAttempt(uid, {.lease_uid = uid, .resource = "", .boot_id = BootId(), .cgroup = "",
                    .ranks = {{.pid = child.pid, .start_time = child.start_time + 1}}});
  const std::string other = NewUuid7();
  MakeAttempt(other, {.lease_uid = other, .resource = "", .boot_id = "another boot", .cgroup = "",
                      .ranks = {{.pid = child.pid, .start_time = child.start_time}}});
  ASSERT_TRUE(CleanUpAttempts(folder_->path() / "attempts").ok());
  EXPECT_FALSE(PeekExit(child).has_value());
  End(child);
}

TEST_F(JournalTest, KillsByMarkWhenTheJournalKnowsNoRank) {
  const std::string uid = NewUuid7();
  const Child child = Start(uid);
  const Child bystander = Start(NewUuid7());
  fs::create_directories(folder_->path() / "attempts" / uid);
  ASSERT_TRUE(CleanUpAttempts(folder_->path() / "attempts").ok());
  EXPECT_TRUE(EndsSoon(child));
  EXPECT_FALSE(PeekExit(bystander).has_value());
  End(child);
  End(bystander);
}

TEST_F(JournalTest, MissingProgramIsNamed) {
  const auto child = spawner_.Spawn({.program = "/nowhere/trainer", .arguments = {}, .environment = {},
                                     .working_directory = folder_->path(), .output = folder_->path() / "out",
                                     .cgroup_procs = std::nullopt});
  EXPECT_EQ(child.status().reason(), "PROGRAM_NOT_FOUND");
}

}  // namespace
}  // namespace sbora::agent
