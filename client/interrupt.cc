#include "client/interrupt.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>

#include "common/check.h"
#include "common/clock.h"

namespace sbora::client {
namespace {

constexpr char kSignal = 's';
constexpr char kEnd = 'e';
constexpr std::array kSignals = {SIGINT, SIGTERM};

// A signal handler can reach nothing but statics. -1: no WaitScope lives.
std::atomic<int> signal_fd = -1;

void OnSignal(int) {
  const int saved = errno;
  if (const int fd = signal_fd.load(); fd >= 0) {
    // A full pipe already wakes the listener.
    [[maybe_unused]] const ssize_t written = ::write(fd, &kSignal, 1);
  }
  errno = saved;
}

void SetHandlers(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  // One shot: a second Ctrl-C ends the program at once.
  action.sa_flags = handler == SIG_DFL ? 0 : static_cast<int>(SA_RESETHAND);
  for (const int signal : kSignals) ::sigaction(signal, &action, nullptr);
}

}  // namespace

WaitScope::WaitScope(std::optional<double> timeout_seconds) : timeout_seconds_(timeout_seconds) {
  std::array<int, 2> ends{};
  SBORA_CHECK(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) == 0, "pipe2: errno {}", errno);
  read_end_ = UniqueFd(ends[0]);
  write_end_ = UniqueFd(ends[1]);
  signal_fd.store(write_end_.get());
  SetHandlers(OnSignal);
  listener_ = std::jthread([this] { Listen(); });
}

WaitScope::~WaitScope() {
  SetHandlers(SIG_DFL);
  signal_fd.store(-1);
  [[maybe_unused]] const ssize_t written = ::write(write_end_.get(), &kEnd, 1);
}

void WaitScope::Listen() {
  pthread_setname_np(pthread_self(), "interrupt");
  const MonotonicTime start = SystemClock().Now();
  while (true) {
    int wait_ms = -1;
    if (timeout_seconds_) {
      const std::chrono::duration<double, std::milli> passed = SystemClock().Now() - start;
      wait_ms = static_cast<int>(std::clamp(*timeout_seconds_ * 1000.0 - passed.count(), 0.0, 1e9));
    }
    pollfd waiting{.fd = read_end_.get(), .events = POLLIN, .revents = 0};
    const int ready = ::poll(&waiting, 1, wait_ms);
    if (ready < 0 && errno == EINTR) continue;
    char what = kEnd;
    if (ready > 0 && ::read(read_end_.get(), &what, 1) == 1 && what == kEnd) return;
    (ready > 0 ? interrupted_ : timed_out_).store(true);
    stop_.request_stop();
    return;
  }
}

Status WaitScope::Explain(const Status& status, const std::string& goes_on) const {
  if (status.code() != StatusCode::kCancelled || status.reason() != "STOPPED") return status;
  if (timed_out_) {
    return DeadlineExceeded("WAIT_TIMEOUT",
                            fmt::format("not done after {} s; {}", timeout_seconds_.value_or(0), goes_on));
  }
  if (interrupted_) return Cancelled("INTERRUPTED", fmt::format("interrupted; {}", goes_on));
  return status;
}

}  // namespace sbora::client
