/// A real program of ours under test: started in its own process group with a log file, killed and reaped at the end.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/status.h"

namespace sbora::testing {

/// True as soon as `predicate` holds; false after `limit`. Looks every few milliseconds.
bool WaitUntil(const std::function<bool()>& predicate, std::chrono::milliseconds limit);

class Program {
 public:
  Program() = default;
  Program(Program&& other) noexcept;
  Program& operator=(Program&& other) noexcept;
  ~Program();  // kill -9 of the whole group, then reaps

  /// stdout and stderr are appended to `log`.
  static StatusOr<Program> Start(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                                 const std::filesystem::path& log);

  bool started() const { return pid_ > 0; }
  pid_t pid() const { return pid_; }
  bool running();
  /// To the program alone, not to its children.
  void Signal(int signal) const;
  /// kill -9 of the program alone, and reaps it.
  void Kill();
  /// Exit code, or 128 + signal; DEADLINE_EXCEEDED when it still runs after `limit`.
  StatusOr<int> WaitForExit(std::chrono::milliseconds limit);

 private:
  pid_t pid_ = -1;
  int exit_code_ = -1;
};

/// Pids of processes whose command line holds `text`, without zombies.
std::vector<pid_t> FindProcesses(const std::string& text);

}  // namespace sbora::testing
