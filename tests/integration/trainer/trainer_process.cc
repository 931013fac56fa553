#include "tests/integration/trainer/trainer_process.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <utility>

#include "worker/trainer/link/frame.h"

namespace sbora::testing {

StatusOr<TrainerProcess> TrainerProcess::Start(const trainer::v1::TaskAssignment& task,
                                               const std::filesystem::path& log) {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return FromErrno(errno, "socketpair");
  UniqueFd ours(fds[0]);
  UniqueFd theirs(fds[1]);
  UniqueFd log_fd(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  const pid_t pid = ::fork();
  if (pid < 0) return FromErrno(errno, "fork");
  if (pid == 0) {
    constexpr int kTaskFd = 3;
    ::dup2(log_fd.get(), STDERR_FILENO);
    if (theirs.get() == kTaskFd) {
      ::fcntl(kTaskFd, F_SETFD, 0);
    } else {
      ::dup2(theirs.get(), kTaskFd);
    }
    ::execl(SBORA_TRAINER, "sbora-trainer", "run", "--fd", "3", static_cast<char*>(nullptr));
    ::_exit(127);
  }
  std::signal(SIGPIPE, SIG_IGN);
  TrainerProcess process(pid, std::move(ours));
  trainer::v1::AgentMessage message;
  *message.mutable_task() = task;
  process.Send(message);
  return process;
}

TrainerProcess::TrainerProcess(TrainerProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), socket_(std::move(other.socket_)) {}

TrainerProcess::~TrainerProcess() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void TrainerProcess::Send(const trainer::v1::AgentMessage& message) const {
  WriteAll(socket_.get(), trainer::EncodeFrame(message.SerializeAsString()), "trainer")
      .IgnoreError("a trainer that ended shows at its end of the socket");
}

void TrainerProcess::SendStop() const {
  trainer::v1::AgentMessage message;
  message.mutable_stop()->set_mode(trainer::v1::Stop::MODE_CHECKPOINT);
  Send(message);
}

void TrainerProcess::Signal(int signal) const { ::kill(pid_, signal); }

std::optional<trainer::v1::TrainerMessage> TrainerProcess::Next() const {
  const auto frame = trainer::ReadFrame(socket_.get());
  if (!frame.ok() || !*frame) return std::nullopt;
  trainer::v1::TrainerMessage message;
  if (!message.ParseFromString(**frame)) return std::nullopt;
  return message;
}

int TrainerProcess::Wait() {
  int status = 0;
  ::waitpid(std::exchange(pid_, -1), &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

const sbora::v1::FineTuningEvent* TrainerRun::FindEvent(const std::string& type) const {
  for (const auto& event : events) {
    if (event.type() == type) return &event;
  }
  return nullptr;
}

TrainerRun RunTrainer(const trainer::v1::TaskAssignment& task, const std::filesystem::path& log,
                      const std::function<void(TrainerProcess&, const trainer::v1::TrainerMessage&)>& on_message) {
  TrainerRun run;
  auto process = TrainerProcess::Start(task, log);
  if (!process.ok()) return run;
  while (const auto message = process->Next()) {
    if (message->has_metric()) run.metrics.push_back(message->metric());
    if (message->has_event()) run.events.push_back(message->event());
    if (message->has_checkpoint()) run.checkpoints.push_back(message->checkpoint());
    if (message->has_result()) run.result = message->result();
    if (message->has_error()) run.error = message->error();
    if (message->has_progress()) {
      run.ticks = message->progress().ticks();
      run.last_progress = message->progress().progress();
    }
    if (on_message) on_message(*process, *message);
  }
  run.exit_code = process->Wait();
  return run;
}

}  // namespace sbora::testing
