#include "server/worker_process.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "common/clock.h"

namespace sbora::server {
namespace {

constexpr std::chrono::milliseconds kLookEvery{20};

/// Between fork and exec only async-signal-safe calls are allowed.
[[noreturn]] void Become(const char* program, char* const* arguments, pid_t parent) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);  // the server died before prctl
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execv(program, arguments);
  ::_exit(127);
}

}  // namespace

StatusOr<std::unique_ptr<WorkerProcess>> WorkerProcess::Start(const std::filesystem::path& program, std::vector<std::string> arguments) {
  if (::access(program.c_str(), X_OK) != 0) {
    return NotFound("WORKER_PROGRAM_MISSING", fmt::format("--with-worker: {} is not there or not executable; start sbora-worker yourself",
                                                          program.string()));
  }
  const std::string path = program.string();
  std::vector<char*> argv = {const_cast<char*>(path.c_str())};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return FromErrno(errno, "starting sbora-worker");
  if (pid == 0) Become(path.c_str(), argv.data(), parent);
  return std::unique_ptr<WorkerProcess>(new WorkerProcess(pid));
}

WorkerProcess::~WorkerProcess() { Stop(std::chrono::seconds(1)); }

bool WorkerProcess::Running() {
  if (pid_ <= 0) return false;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return true;
  pid_ = -1;
  return false;
}

void WorkerProcess::Stop(std::chrono::milliseconds grace) {
  if (!Running()) return;
  ::kill(pid_, SIGTERM);
  const MonotonicTime until = SystemClock().Now() + grace;
  while (Running() && SystemClock().Now() < until) SystemClock().SleepUntil(SystemClock().Now() + kLookEvery, {});
  if (!Running()) return;
  ::kill(-pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

std::filesystem::path ProgramDirectory() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
}

}  // namespace sbora::server
