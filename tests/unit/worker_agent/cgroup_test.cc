#include "worker/agent/cgroup.h"

#include <gtest/gtest.h>

#include "common/file.h"

namespace sbora::agent {
namespace {

namespace fs = std::filesystem;

TEST(CgroupTest, ReadsOomKillsOfBothVersions) {
  EXPECT_EQ(ParseOomKills("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 9\n"), 3);
  EXPECT_EQ(ParseOomKills("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), 1);
  EXPECT_EQ(ParseOomKills("oom_kill_disable 1\n"), 0);
  EXPECT_EQ(ParseOomKills(""), 0);
}

TEST(CgroupTest, CountsFromTheGroupsFiles) {
  auto folder = TempDirectory::Create(fs::temp_directory_path(), "sbora-cgroup-test");
  ASSERT_TRUE(folder.ok());
  const fs::path group = folder->path() / "sbora-x";
  fs::create_directories(group);
  EXPECT_FALSE(Cgroup::Open(group).has_value());  // no cgroup.procs: not a group
  ASSERT_TRUE(WriteFileAtomic(group / "cgroup.procs", "").ok());
  ASSERT_TRUE(WriteFileAtomic(group / "memory.events", "oom_kill 4\n").ok());
  const auto cgroup = Cgroup::Open(group);
  ASSERT_TRUE(cgroup.has_value());
  EXPECT_EQ(cgroup->OomKills(), 4);
  EXPECT_TRUE(cgroup->Pids().empty());
}

TEST(CgroupTest, OpensOnlyGroupsOfOurs) {
  auto folder = TempDirectory::Create(fs::temp_directory_path(), "sbora-cgroup-test");
  ASSERT_TRUE(folder.ok());
  const fs::path group = folder->path() / "system.slice";
  fs::create_directories(group);
  ASSERT_TRUE(WriteFileAtomic(group / "cgroup.procs", "1\n").ok());
  EXPECT_FALSE(Cgroup::Open(group).has_value());
  EXPECT_FALSE(Cgroup::Open("").has_value());
}

TEST(CgroupTest, NoneWhereNothingIsWritable) {
  EXPECT_FALSE(Cgroup::Create("x", "/nowhere", "/nowhere/cgroup").has_value());
}

}  // namespace
}  // namespace sbora::agent
