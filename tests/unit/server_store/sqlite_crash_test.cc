// A process that is killed at any moment: everything it acknowledged is there afterwards, whole.
#include <gtest/gtest.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/file.h"
#include "server/store/sqlite_store.h"

namespace sbora::server {
namespace {

/// The child: commits work after work, each with its event, and writes its number into the pipe after the commit.
[[noreturn]] void CommitForEver(const std::filesystem::path& path, int pipe_fd, int64_t first) {
  auto store = OpenSqliteStore({.path = path, .readers = 1});
  if (!store.ok()) _exit(1);
  for (int64_t number = first;; ++number) {
    WorkRow row;
    row.uid = fmt::format("work-{:08}", number);
    row.project = "default";
    row.id = row.uid;
    row.name = "projects/default/fineTuningJobs/" + row.uid;
    row.version = 1;
    WriteSet set;
    set.mutations = {PutWork{.row = row, .payload = std::make_shared<WorkPayload>(), .uses = {}, .reserves = {}},
                     AddEvent{{.work_uid = row.uid, .sequence = 1, .time_ms = 0, .level = 1, .type = "LOG", .message = "", .attempt = 0}}};
    const WriteSet* const sets[] = {&set};
    if (!(*store)->Commit(sets).ok()) _exit(2);
    if (write(pipe_fd, &number, sizeof(number)) != sizeof(number)) _exit(3);
  }
}

TEST(SqliteCrash, WhatWasAcknowledgedIsThere) {
  auto directory = TempDirectory::Create(::testing::TempDir(), "crash");
  ASSERT_TRUE(directory.ok());
  const std::filesystem::path path = directory->path() / "sbora.db";
  int64_t acknowledged = 0;
  for (int round = 0; round < 12; ++round) {
    int fds[2];
    ASSERT_EQ(pipe(fds), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(fds[0]);
      CommitForEver(path, fds[1], acknowledged + 1000);  // beyond what an unacknowledged commit may have left
    }
    close(fds[1]);
    std::vector<int64_t> numbers;
    int64_t number = 0;
    // Killed after a different number of commits each round, while the next one is under way.
    for (int i = 0; i <= round * 2 && read(fds[0], &number, sizeof(number)) == sizeof(number); ++i) numbers.push_back(number);
    kill(child, SIGKILL);
    while (read(fds[0], &number, sizeof(number)) == sizeof(number)) numbers.push_back(number);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "exit " << WEXITSTATUS(status);
    close(fds[0]);
    ASSERT_FALSE(numbers.empty());
    auto store = OpenSqliteStore({.path = path, .readers = 1});
    ASSERT_TRUE(store.ok()) << store.status();
    for (const int64_t n : numbers) {
      const std::string uid = fmt::format("work-{:08}", n);
      EXPECT_TRUE((*store)->GetWorkByUid(uid).ok()) << uid << " was acknowledged and is gone";
    }
    const auto active = (*store)->LoadActive();
    ASSERT_TRUE(active.ok());
    for (const Work& work : active->works) {
      EXPECT_EQ((*store)->ListEvents(work.row.uid, 0, 10)->size(), 1u) << work.row.uid << " is half there";
    }
    acknowledged = numbers.back();
  }
}

}  // namespace
}  // namespace sbora::server
