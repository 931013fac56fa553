/// A control group for one gang: kills all its processes at once, also those that left their process group, and
/// counts kills by the kernel's out-of-memory killer. Works with v2 and with v1's memory controller; where neither is
/// writable there is no group and process groups do the work alone.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora::agent {

class Cgroup {
 public:
  /// Makes `sbora-<name>` below the agent's own group; nullopt when the machine does not let us.
  /// `proc_self_cgroup` and `mount` are for tests.
  static std::optional<Cgroup> Create(std::string_view name, const std::filesystem::path& mount = "/sys/fs/cgroup",
                                      const std::filesystem::path& proc_self_cgroup = "/proc/self/cgroup");
  /// A group recorded in a journal; nullopt when it is gone or not one of ours.
  static std::optional<Cgroup> Open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  /// The file a process writes its pid into to join.
  std::filesystem::path procs_file() const { return path_ / "cgroup.procs"; }
  std::vector<int> Pids() const;
  /// Processes of the group that the kernel killed for memory, since its creation.
  int64_t OomKills() const;
  /// SIGKILL to every member, once; new members may follow, so repeat until Pids() is empty.
  void KillAll() const;
  /// Removes the empty group.
  void Remove() const;

 private:
  explicit Cgroup(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

/// The number after `oom_kill ` in memory.events (v2) or memory.oom_control (v1); 0 when there is none.
int64_t ParseOomKills(std::string_view text);

}  // namespace sbora::agent
