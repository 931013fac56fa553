#include "tests/integration/agent/worker_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <sstream>

#include "common/clock.h"

namespace sbora::agent {
namespace {

bool IsAlive(const std::string& pid) {
  std::ifstream in("/proc/" + pid + "/stat");
  std::string text;
  std::getline(in, text);
  const size_t end = text.rfind(')');
  return end != std::string::npos && end + 2 < text.size() && text[end + 2] != 'Z' && text[end + 2] != 'X';
}

}  // namespace

bool WaitUntil(const std::function<bool()>& predicate) {
  const MonotonicTime limit = SystemClock().Now() + std::chrono::minutes(1);
  while (!predicate()) {
    if (SystemClock().Now() >= limit) return false;
    SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(10), {});
  }
  return true;
}

WorkerProcess::WorkerProcess(std::vector<std::string> flags, const std::filesystem::path& log) {
  flags.insert(flags.begin(), SBORA_WORKER);
  std::vector<char*> arguments;
  for (std::string& flag : flags) arguments.push_back(flag.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn(&pid_, SBORA_WORKER, &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
}

WorkerProcess::~WorkerProcess() {
  if (exit_) return;
  Signal(SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void WorkerProcess::Signal(int signal) const { ::kill(pid_, signal); }

std::optional<int> WorkerProcess::WaitForExit() {
  WaitUntil([this] {
    int status = 0;
    if (!exit_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return exit_.has_value();
  });
  return exit_;
}

std::vector<int> ProcessesOf(const std::string& lease_uid) {
  std::vector<int> pids;
  const std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
  while (const dirent* entry = ::readdir(proc.get())) {
    const std::string name = entry->d_name;
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream in("/proc/" + name + "/environ");
    std::ostringstream text;
    text << in.rdbuf();
    if (text.str().find("SBORA_LEASE=" + lease_uid) != std::string::npos && IsAlive(name)) pids.push_back(std::stoi(name));
  }
  return pids;
}

bool WaitForProcesses(const std::string& lease_uid, size_t count) {
  return WaitUntil([&] { return ProcessesOf(lease_uid).size() == count; });
}

}  // namespace sbora::agent
