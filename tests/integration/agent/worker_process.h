/// sbora-worker as a real process, and a view of the ranks it has started.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace sbora::agent {

/// True as soon as `predicate` holds; false after a minute, for a machine may stand still for seconds.
bool WaitUntil(const std::function<bool()>& predicate);

class WorkerProcess {
 public:
  /// Starts it with the given flags; its log goes to `log`.
  WorkerProcess(std::vector<std::string> flags, const std::filesystem::path& log);
  /// SIGKILL and reap when it still runs.
  ~WorkerProcess();
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  void Signal(int signal) const;
  /// Exit code, or 128 + signal; nullopt after a minute.
  std::optional<int> WaitForExit();
  int pid() const { return pid_; }

 private:
  int pid_ = -1;
  std::optional<int> exit_;
};

/// Living processes (not zombies) that carry the lease's mark in their environment.
std::vector<int> ProcessesOf(const std::string& lease_uid);
/// Waits until there are `count`; false after a minute.
bool WaitForProcesses(const std::string& lease_uid, size_t count);

}  // namespace sbora::agent
