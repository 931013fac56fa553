#include "worker/agent/process.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <future>

#include "common/process_stat.h"
#include "common/status_macros.h"

namespace sbora::agent {
namespace {

constexpr int kChildSocket = 3;

/// Everything the child needs between fork and exec, made before the fork: afterwards only async-signal-safe calls
/// are allowed, for other threads may hold any lock.
struct Prepared {
  std::vector<std::string> texts;
  std::vector<char*> arguments;
  std::vector<char*> environment;
  std::string program;
  std::string directory;
  std::string cgroup;
  int output = -1;
  int socket = -1;
  int listener = -1;
  int error_pipe = -1;
  int parent = -1;
};

std::vector<char*> Pointers(std::vector<std::string>& texts, size_t from, size_t to) {
  std::vector<char*> pointers;
  for (size_t i = from; i < to; ++i) pointers.push_back(texts[i].data());
  pointers.push_back(nullptr);
  return pointers;
}

void Prepare(const SpawnOptions& options, Prepared& prepared) {
  prepared.program = options.program.string();
  prepared.directory = options.working_directory.string();
  if (options.cgroup_procs) prepared.cgroup = options.cgroup_procs->string();
  prepared.texts.push_back(prepared.program);
  prepared.texts.insert(prepared.texts.end(), options.arguments.begin(), options.arguments.end());
  const size_t split = prepared.texts.size();
  const auto name_of = [](std::string_view entry) { return entry.substr(0, entry.find('=')); };
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view name = name_of(*entry);
    const bool replaced = std::any_of(options.environment.begin(), options.environment.end(),
                                      [&](const std::string& added) { return name_of(added) == name; });
    if (!replaced) prepared.texts.emplace_back(*entry);
  }
  prepared.texts.insert(prepared.texts.end(), options.environment.begin(), options.environment.end());
  prepared.arguments = Pointers(prepared.texts, 0, split);
  prepared.environment = Pointers(prepared.texts, split, prepared.texts.size());
  prepared.parent = ::getpid();
}

[[noreturn]] void Fail(const Prepared& prepared) {
  const int error = errno;
  [[maybe_unused]] const ssize_t ignored = ::write(prepared.error_pipe, &error, sizeof(error));
  ::_exit(127);
}

/// In the child: async-signal-safe calls only.
[[noreturn]] void Exec(const Prepared& prepared) {
  if (::setpgid(0, 0) != 0) Fail(prepared);
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) Fail(prepared);
  if (::getppid() != prepared.parent) ::_exit(127);  // the agent ended before prctl took effect
  if (!prepared.cgroup.empty()) {
    const int fd = ::open(prepared.cgroup.c_str(), O_WRONLY | O_CLOEXEC);
    // "0" is the writer itself. Without the group the process group still does the work.
    if (fd >= 0) {
      [[maybe_unused]] const ssize_t ignored = ::write(fd, "0", 1);
      ::close(fd);
    }
  }
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &standard, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (::chdir(prepared.directory.c_str()) != 0) Fail(prepared);
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0 || ::dup2(null, 0) < 0 || ::dup2(prepared.output, 1) < 0 || ::dup2(prepared.output, 2) < 0) Fail(prepared);
  // The descriptors of `prepared` are all above 4 (see Above): dup2 clears close-on-exec on the copy.
  if (::dup2(prepared.socket, kChildSocket) < 0) Fail(prepared);
  if (prepared.listener >= 0 && ::dup2(prepared.listener, kChildListener) < 0) Fail(prepared);
  const unsigned int others = prepared.listener >= 0 ? kChildListener + 1 : kChildSocket + 1;
  ::syscall(SYS_close_range, others, ~0U, CLOSE_RANGE_CLOEXEC);
  ::execve(prepared.program.c_str(), prepared.arguments.data(), prepared.environment.data());
  Fail(prepared);
}

/// A copy of the descriptor above 4, so that dup2 in the child never overwrites one it still needs.
StatusOr<UniqueFd> Above(int fd) {
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 10);
  if (copy < 0) return FromErrno(errno, "dup of a descriptor");
  return UniqueFd(copy);
}

StatusOr<Child> SpawnNow(const SpawnOptions& options) {
  Prepared prepared;
  Prepare(options, prepared);
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) return FromErrno(errno, "socketpair");
  UniqueFd ours(sockets[0]);
  SBORA_ASSIGN_OR_RETURN(const UniqueFd theirs, Above(UniqueFd(sockets[1]).get()));
  int pipes[2];
  if (::pipe2(pipes, O_CLOEXEC) != 0) return FromErrno(errno, "pipe");
  const UniqueFd error_read(pipes[0]);
  SBORA_ASSIGN_OR_RETURN(UniqueFd error_write, Above(UniqueFd(pipes[1]).get()));
  const UniqueFd opened(::open(options.output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!opened.valid()) return FromErrno(errno, fmt::format("opening {}", options.output.string()));
  SBORA_ASSIGN_OR_RETURN(const UniqueFd output, Above(opened.get()));
  UniqueFd listener;
  if (options.listener >= 0) {
    SBORA_ASSIGN_OR_RETURN(listener, Above(options.listener));
  }
  prepared.socket = theirs.get();
  prepared.output = output.get();
  prepared.listener = listener.get();
  prepared.error_pipe = error_write.get();

  const pid_t pid = ::fork();
  if (pid < 0) return FromErrno(errno, "fork");
  if (pid == 0) Exec(prepared);
  Child child;
  child.pid = pid;
  child.pidfd = UniqueFd(OpenPidfd(pid));
  child.socket = std::move(ours);
  error_write.Reset();
  int error = 0;
  const bool failed = ::read(error_read.get(), &error, sizeof(error)) == sizeof(error);
  if (failed || !child.pidfd.valid()) {
    const int reason = failed ? error : errno;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    const std::string what = fmt::format("starting {}", options.program.string());
    if (reason == ENOENT || reason == EACCES) {
      return NotFound("PROGRAM_NOT_FOUND", fmt::format("{}: no such program, or it may not be executed; give its path "
                                                       "with --trainer", what));
    }
    return FromErrno(reason, what);
  }
  child.start_time = ReadProcessStat(pid).value_or(ProcessStat{}).start_time;
  return child;
}

bool GroupExists(int group) { return ::kill(-group, 0) == 0 || errno == EPERM; }

}  // namespace

Spawner::Spawner() {
  // Orphans of a killed rank come to us, where they can be reaped, and not to an init that may not do it.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
}

Spawner::~Spawner() { thread_.request_stop(); }

void Spawner::Run(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "spawner");
  while (true) {
    std::function<void()> next;
    {
      MutexLock lock(mutex_);
      // Waits on the token too: a plain notification could fall between the look at it and the wait.
      if (!changed_.wait(lock, stop, [this]() SBORA_NO_THREAD_SAFETY_ANALYSIS { return !work_.empty(); })) return;
      next = std::move(work_.front());
      work_.pop();
    }
    next();
  }
}

StatusOr<Child> Spawner::Spawn(const SpawnOptions& options) {
  std::promise<StatusOr<Child>> promise;
  {
    MutexLock lock(mutex_);
    work_.emplace([&] { promise.set_value(SpawnNow(options)); });
  }
  changed_.notify_all();
  return promise.get_future().get();
}

std::optional<ChildExit> PeekExit(const Child& child) {
  siginfo_t info = {};
  if (::waitid(P_PID, static_cast<id_t>(child.pid), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) {
    return std::nullopt;
  }
  return ChildExit{.signaled = info.si_code != CLD_EXITED, .value = info.si_status};
}

void KillGroup(const Child& child, int signal) {
  if (child.pid > 1) ::kill(-child.pid, signal);
}

bool ReapGroup(const Child& child) {
  if (child.pid <= 1) return true;
  // The leader is a zombie or was reaped by an earlier round, which leaves the number taken while members exist.
  if (!GroupExists(child.pid)) return true;
  ::kill(-child.pid, SIGKILL);
  while (::waitpid(-child.pid, nullptr, WNOHANG) > 0) {
  }
  return !GroupExists(child.pid);
}

int OpenPidfd(int pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

int SendPidfdSignal(int pidfd, int signal) {
  return static_cast<int>(::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0));
}

int KillByEnvironment(const std::string& variable) {
  int killed = 0;
  const std::unique_ptr<DIR, int (*)(DIR*)> proc(::opendir("/proc"), ::closedir);
  if (proc == nullptr) return 0;
  const std::string needle = variable + '\0';
  while (const dirent* entry = ::readdir(proc.get())) {
    int pid = 0;
    const std::string_view name(entry->d_name);
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (parsed.ec != std::errc() || parsed.ptr != name.data() + name.size() || pid <= 1 || pid == ::getpid()) continue;
    const UniqueFd pidfd(OpenPidfd(pid));
    if (!pidfd.valid()) continue;
    std::ifstream in(fmt::format("/proc/{}/environ", pid));
    std::ostringstream text;
    text << in.rdbuf();
    const std::string environment = text.str();
    const bool ours = environment.starts_with(needle) || environment.find('\0' + needle) != std::string::npos;
    // The pidfd was opened before the environment was read: it is that process or a dead one.
    if (ours && SendPidfdSignal(pidfd.get(), SIGKILL) == 0) ++killed;
  }
  return killed;
}

}  // namespace sbora::agent
