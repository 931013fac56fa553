/// Child processes that never outlive the agent.
///
/// The parent-death signal of Linux fires when the *thread* that forked ends, so all children are forked by one thread
/// that lives as long as the Spawner, which lives as long as the agent.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <queue>
#include <string>
#include <thread>
#include <vector>

#include "common/file.h"
#include "common/mutex.h"
#include "common/status.h"

namespace sbora::agent {

struct SpawnOptions {
  std::filesystem::path program;
  std::vector<std::string> arguments;                // after the program's name
  std::vector<std::string> environment;              // "NAME=value", added to or replacing the agent's own
  std::filesystem::path working_directory;
  std::filesystem::path output;                      // stdout and stderr are appended here
  std::optional<std::filesystem::path> cgroup_procs;  // joined before exec
  int listener = -1;                                 // if not -1: a descriptor, the caller's, of which the child gets a copy
};

/// The descriptor under which a child has SpawnOptions.listener.
inline constexpr int kChildListener = 4;

/// A running child: leader of its own process group, its pidfd, and the agent's end of the socket whose other end the
/// child has as descriptor 3.
struct Child {
  int pid = -1;
  /// Clock ticks since boot, from /proc/<pid>/stat; tells a reused pid from the recorded one.
  uint64_t start_time = 0;
  UniqueFd pidfd;
  UniqueFd socket;
};

struct ChildExit {
  bool signaled = false;
  int value = 0;  // exit code or signal number
};

/// Thread-safe. Destroy it last: the end of its thread kills every child.
class Spawner {
 public:
  Spawner();
  ~Spawner();

  /// Errors: those of the system calls; NotFound PROGRAM_NOT_FOUND when `program` cannot be executed.
  StatusOr<Child> Spawn(const SpawnOptions& options);

 private:
  void Run(const std::stop_token& stop);

  Mutex mutex_;
  std::condition_variable_any changed_;
  std::queue<std::function<void()>> work_ SBORA_GUARDED_BY(mutex_);
  std::jthread thread_;
};

/// The exit of the child if it has ended; it stays a zombie, so that its pid and group number are not reused.
std::optional<ChildExit> PeekExit(const Child& child);

/// SIGKILL to the child's process group. Only before ReapGroup.
void KillGroup(const Child& child, int signal);

/// After PeekExit: kills what is left of the group, reaps the leader and orphans of the group that came to us (the
/// agent is a subreaper). True when nothing of the group is left.
bool ReapGroup(const Child& child);

/// pidfd_open(2) and pidfd_send_signal(2), which glibc 2.36 declares for C only.
int OpenPidfd(int pid);
int SendPidfdSignal(int pidfd, int signal);

/// Kills every process that has `variable` ("NAME=value") in its environment, through pidfds. Returns how many.
int KillByEnvironment(const std::string& variable);

}  // namespace sbora::agent
