#include "tests/testing/program.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <fstream>
#include <iterator>
#include <utility>

#include "common/clock.h"
#include "common/file.h"

extern char** environ;  // POSIX declares it nowhere

namespace sbora::testing {

bool WaitUntil(const std::function<bool()>& predicate, std::chrono::milliseconds limit) {
  const Clock& clock = SystemClock();
  const MonotonicTime end = clock.Now() + limit;
  while (true) {
    if (predicate()) return true;
    if (clock.Now() >= end) return false;
    clock.SleepUntil(clock.Now() + std::chrono::milliseconds(10), std::stop_token());
  }
}

Program::Program(Program&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), exit_code_(std::exchange(other.exit_code_, -1)) {}

Program& Program::operator=(Program&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(exit_code_, other.exit_code_);
  return *this;
}

Program::~Program() {
  if (pid_ <= 0) return;
  ::kill(-pid_, SIGKILL);
  if (running()) Kill();
}

StatusOr<Program> Program::Start(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                                 const std::filesystem::path& log) {
  std::vector<std::string> all = {program.string()};
  all.insert(all.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& argument : all) argv.push_back(argument.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  Program result;
  const int error = ::posix_spawn(&result.pid_, program.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    result.pid_ = -1;
    return FromErrno(error, "starting " + program.string());
  }
  return result;
}

bool Program::running() {
  if (pid_ <= 0 || exit_code_ >= 0) return false;
  int status = 0;
  const pid_t reaped = ::waitpid(pid_, &status, WNOHANG);
  if (reaped != pid_) return true;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return false;
}

void Program::Signal(int signal) const {
  if (pid_ > 0 && exit_code_ < 0) ::kill(pid_, signal);
}

void Program::Kill() {
  Signal(SIGKILL);
  WaitForExit(std::chrono::seconds(60)).status().IgnoreError("a killed process is gone or a zombie; both end the test");
}

StatusOr<int> Program::WaitForExit(std::chrono::milliseconds limit) {
  if (!WaitUntil([this] { return !running(); }, limit)) {
    return DeadlineExceeded("STILL_RUNNING", fmt::format("process {} still runs", pid_));
  }
  return exit_code_;
}

std::vector<pid_t> FindProcesses(const std::string& text) {
  std::vector<pid_t> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    pid_t pid = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad != std::errc() || end != name.data() + name.size()) continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    const std::string command{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (command.find(text) != std::string::npos) found.push_back(pid);  // a zombie's command line is empty
  }
  return found;
}

}  // namespace sbora::testing
