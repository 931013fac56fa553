#include "worker/agent/gang.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <deque>

#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/agent/trainer_socket.h"

namespace sbora::agent {
namespace {

constexpr size_t kStepsForMedian = 63;
constexpr Duration kMaxPoll = std::chrono::milliseconds(500);
constexpr Duration kReapLimit = std::chrono::seconds(30);
constexpr size_t kMaxUnreadBytes = 1024 * 1024;

struct Rank {
  Child child;
  FrameReader reader;
  FrameWriter writer;
  int64_t ticks = 0;
  bool open = true;  // socket not at its end
  bool exited = false;
  bool reaped = false;  // with its whole group: the number may be another's from now on
};

class GangRun {
 public:
  GangRun(const GangOptions& options, GangControl& control, const GangObserver& observer)
      : options_(options), control_(control), observer_(observer), last_tick_(SystemClock().Now()) {
    outcome_.first_rank = options.first_rank;
  }

  Status Start(Spawner& spawner);
  GangOutcome Run();

 private:
  void Kill(KillCause cause);
  void SignalAll();
  void ObeyControl(MonotonicTime now);
  void WatchDeadlines(MonotonicTime now);
  void Poll(MonotonicTime now);
  Duration PollTime(MonotonicTime now) const;
  Duration CurrentHangLimit() const;
  int NumberOf(size_t index) const { return options_.first_rank + static_cast<int>(index); }
  void ReadFrom(Rank& rank, size_t index);
  void Handle(trainer::v1::TrainerMessage message, size_t index);
  void NoteProgress(const trainer::v1::Progress& progress, size_t index);
  void NoteExits(MonotonicTime now);
  void TrimOutputs();
  void Reap();

  const GangOptions& options_;
  GangControl& control_;
  const GangObserver& observer_;
  std::vector<Rank> ranks_;
  GangOutcome outcome_;
  bool killing_ = false;
  MonotonicTime renewal_told_{};
  std::optional<MonotonicTime> checkpoint_deadline_;
  std::optional<MonotonicTime> exit_deadline_;
  MonotonicTime last_tick_;
  MonotonicTime next_trim_{};
  std::deque<double> step_seconds_;
  int64_t last_step_ = -1;
  MonotonicTime last_step_at_{};
};

Status GangRun::Start(Spawner& spawner) {
  ranks_.reserve(options_.ranks.size());
  for (size_t i = 0; i < options_.ranks.size(); ++i) {
    auto child = spawner.Spawn(options_.ranks[i].spawn);
    if (!child.ok()) {
      Kill(KillCause::kRankDied);
      Reap();
      return child.status().WithContext(fmt::format("rank {}", NumberOf(i)));
    }
    Rank& rank = ranks_.emplace_back();
    rank.child = *std::move(child);
    trainer::v1::AgentMessage message;
    *message.mutable_task() = options_.ranks[i].assignment;
    rank.writer.Push(message);
  }
  if (observer_.on_started) {
    // The observer only looks; the children stay here.
    std::vector<Child> seen;
    for (const Rank& rank : ranks_) {
      Child copy;
      copy.pid = rank.child.pid;
      copy.start_time = rank.child.start_time;
      seen.push_back(std::move(copy));
    }
    observer_.on_started(seen);
  }
  renewal_told_ = control_.renewed();
  last_tick_ = SystemClock().Now();
  return OkStatus();
}

GangOutcome GangRun::Run() {
  const auto running = [&] { return std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return !r.exited; }); };
  while (running()) {
    const MonotonicTime now = SystemClock().Now();
    ObeyControl(now);
    WatchDeadlines(now);
    Poll(now);
    TrimOutputs();
  }
  // What a rank wrote just before its end is still in the sockets.
  for (size_t i = 0; i < ranks_.size(); ++i) ReadFrom(ranks_[i], i);
  outcome_.order = control_.order();
  if (options_.cgroup) outcome_.oom_kills = options_.cgroup->OomKills();
  Reap();
  return std::move(outcome_);
}

void GangRun::Kill(KillCause cause) {
  if (!killing_) {
    killing_ = true;
    outcome_.cause = cause;
    if (observer_.on_stopping) observer_.on_stopping();
  }
  SignalAll();
}

void GangRun::SignalAll() {
  for (const Rank& rank : ranks_) KillGroup(rank.child, SIGKILL);
  if (options_.cgroup) options_.cgroup->KillAll();
}

void GangRun::ObeyControl(MonotonicTime now) {
  control_.Clear();
  if (const MonotonicTime renewed = control_.renewed(); renewed > renewal_told_) {
    renewal_told_ = renewed;
    trainer::v1::AgentMessage message;
    message.mutable_renewed();
    for (Rank& rank : ranks_) {
      // A rank that reads nothing misses renewals and then fences itself: better than growing without bound.
      if (rank.open && rank.writer.pending_bytes() < kMaxUnreadBytes) rank.writer.Push(message);
    }
  }
  const StopOrder order = control_.order();
  if (order == StopOrder::kNone || killing_) return;
  if (!AsksForCheckpoint(order)) {
    Kill(KillCause::kOrder);
    return;
  }
  if (outcome_.stop_sent) return;
  outcome_.stop_sent = true;
  checkpoint_deadline_ = now + options_.checkpoint_grace;
  trainer::v1::AgentMessage message;
  message.mutable_stop()->set_mode(trainer::v1::Stop::MODE_CHECKPOINT);
  for (Rank& rank : ranks_) rank.writer.Push(message);
  if (observer_.on_stopping) observer_.on_stopping();
}

void GangRun::WatchDeadlines(MonotonicTime now) {
  if (killing_) return SignalAll();  // again: a process may have been forked between two signals
  if (now - control_.renewed() >= options_.self_fence) {
    outcome_.self_fence_seconds = std::chrono::duration<double>(options_.self_fence).count();
    return Kill(KillCause::kSelfFence);
  }
  if (checkpoint_deadline_ && now >= *checkpoint_deadline_) return Kill(KillCause::kCheckpointGrace);
  if (exit_deadline_ && now >= *exit_deadline_) return Kill(KillCause::kExitGrace);
  const Duration limit = CurrentHangLimit();
  if (now - last_tick_ >= limit) {
    outcome_.hang_limit_seconds = std::chrono::duration<double>(limit).count();
    Kill(KillCause::kHang);
  }
}

Duration GangRun::CurrentHangLimit() const {
  return HangLimit(options_.hang, {step_seconds_.begin(), step_seconds_.end()});
}

Duration GangRun::PollTime(MonotonicTime now) const {
  if (killing_) return std::chrono::milliseconds(20);
  Duration wait = std::min<Duration>(kMaxPoll, control_.renewed() + options_.self_fence - now);
  wait = std::min<Duration>(wait, last_tick_ + CurrentHangLimit() - now);
  if (checkpoint_deadline_) wait = std::min<Duration>(wait, *checkpoint_deadline_ - now);
  if (exit_deadline_) wait = std::min<Duration>(wait, *exit_deadline_ - now);
  return std::max<Duration>(wait, std::chrono::milliseconds(1));
}

void GangRun::Poll(MonotonicTime now) {
  std::vector<pollfd> fds;
  fds.push_back({.fd = control_.wake_fd(), .events = POLLIN, .revents = 0});
  for (Rank& rank : ranks_) {
    if (const Status sent = rank.writer.Flush(rank.child.socket.get()); !sent.ok()) {
      LogWarn("cannot write to a rank", {{"error", sent.ToString()}});
    }
    const short events = static_cast<short>(POLLIN | (rank.writer.empty() ? 0 : POLLOUT));
    fds.push_back({.fd = rank.open ? rank.child.socket.get() : -1, .events = events, .revents = 0});
    fds.push_back({.fd = rank.exited ? -1 : rank.child.pidfd.get(), .events = POLLIN, .revents = 0});
  }
  const auto wait = std::chrono::ceil<std::chrono::milliseconds>(PollTime(now));
  if (::poll(fds.data(), fds.size(), static_cast<int>(wait.count())) <= 0) return;
  for (size_t i = 0; i < ranks_.size(); ++i) {
    if (fds[1 + 2 * i].revents != 0) ReadFrom(ranks_[i], i);
  }
  NoteExits(SystemClock().Now());
}

void GangRun::ReadFrom(Rank& rank, size_t index) {
  if (!rank.open) return;
  const auto more = rank.reader.ReadAvailable(rank.child.socket.get());
  rank.open = more.ok() && *more;
  while (true) {
    auto message = rank.reader.Next();
    if (!message.ok()) {
      rank.open = false;
      if (outcome_.bad_message.ok()) outcome_.bad_message = message.status().WithContext(fmt::format("rank {}", NumberOf(index)));
      Kill(KillCause::kBadMessage);
      return;
    }
    if (!message->has_value()) return;
    Handle(*std::move(*message), index);
  }
}

void GangRun::Handle(trainer::v1::TrainerMessage message, size_t index) {
  using Kind = trainer::v1::TrainerMessage;
  const bool leads = NumberOf(index) == 0;
  switch (message.kind_case()) {
    case Kind::kProgress:
      NoteProgress(message.progress(), index);
      break;
    case Kind::kMetric:
      if (leads && observer_.on_metric) observer_.on_metric(std::move(*message.mutable_metric()));
      break;
    case Kind::kEvent:
      if (observer_.on_event) observer_.on_event(std::move(*message.mutable_event()));
      break;
    case Kind::kCheckpoint:
      if (leads && observer_.on_checkpoint) observer_.on_checkpoint(std::move(*message.mutable_checkpoint()));
      break;
    case Kind::kResult:
      if (leads) outcome_.result = std::move(*message.mutable_result());
      break;
    case Kind::kError:
      // That another is lost is a consequence: the other's own word goes before it.
      if (!outcome_.error || (IsRankLost(*outcome_.error) && !IsRankLost(message.error()))) {
        outcome_.error = std::move(*message.mutable_error());
      }
      break;
    case Kind::KIND_NOT_SET:
      break;  // a kind of a newer trainer
  }
}

void GangRun::NoteProgress(const trainer::v1::Progress& progress, size_t index) {
  const MonotonicTime now = SystemClock().Now();
  if (progress.ticks() > ranks_[index].ticks) {
    ranks_[index].ticks = progress.ticks();
    last_tick_ = now;
  }
  if (index != 0) return;
  const int64_t step = progress.progress().step();
  if (step > last_step_) {
    if (last_step_ >= 0) {
      const double seconds = std::chrono::duration<double>(now - last_step_at_).count();
      step_seconds_.push_back(seconds / static_cast<double>(step - last_step_));
      if (step_seconds_.size() > kStepsForMedian) step_seconds_.pop_front();
    }
    last_step_ = step;
    last_step_at_ = now;
  }
  int64_t ticks = 0;
  for (const Rank& rank : ranks_) ticks += rank.ticks;
  if (observer_.on_progress) observer_.on_progress(progress.progress(), ticks);
}

void GangRun::NoteExits(MonotonicTime now) {
  // Of ranks that are found ended together, each may be the cause.
  const bool killed_before = killing_;
  for (size_t i = 0; i < ranks_.size(); ++i) {
    Rank& rank = ranks_[i];
    if (rank.exited) continue;
    const auto exit = PeekExit(rank.child);
    if (!exit) continue;
    rank.exited = true;
    ReadFrom(rank, i);  // its last words come before the verdict
    outcome_.exits.push_back({.rank = NumberOf(i), .exit = *exit, .after_kill = killed_before});
    if (ranks_.size() == 1) continue;
    const bool good = !exit->signaled && (exit->value == 0 || exit->value == 3);
    if (!good && !killing_) Kill(KillCause::kRankDied);
    if (!exit_deadline_) exit_deadline_ = now + options_.exit_grace;
  }
}

void GangRun::TrimOutputs() {
  const MonotonicTime now = SystemClock().Now();
  if (now < next_trim_) return;
  next_trim_ = now + std::chrono::seconds(1);
  for (const RankOptions& rank : options_.ranks) {
    struct stat info = {};
    const char* path = rank.spawn.output.c_str();
    if (::stat(path, &info) != 0 || info.st_size <= options_.max_output_bytes) continue;
    // The file is open for appending: emptying it makes room and the rank goes on at its new end.
    if (::truncate(path, 0) == 0) {
      LogWarn("output of a rank dropped", {{"bytes", static_cast<int64_t>(info.st_size)}, {"file", path}});
    }
  }
}

void GangRun::Reap() {
  const MonotonicTime limit = SystemClock().Now() + kReapLimit;
  while (true) {
    bool empty = true;
    for (Rank& rank : ranks_) {
      if (!rank.reaped) rank.reaped = ReapGroup(rank.child);
      empty = empty && rank.reaped;
    }
    if (options_.cgroup && !options_.cgroup->Pids().empty()) {
      options_.cgroup->KillAll();
      empty = false;
    }
    if (empty) return;
    const MonotonicTime now = SystemClock().Now();
    if (now >= limit) {
      LogError("processes of a gang do not end; their slots may still be in use");
      return;
    }
    SystemClock().SleepUntil(now + std::chrono::milliseconds(5), {});
  }
}

}  // namespace

GangControl::GangControl(MonotonicTime renewed) : wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), renewed_(renewed) {
  SBORA_CHECK(wake_.valid(), "eventfd failed: errno {}", errno);
}

void GangControl::Renew(MonotonicTime sent_at) {
  {
    MutexLock lock(mutex_);
    renewed_ = std::max(renewed_, sent_at);
  }
  ::eventfd_write(wake_.get(), 1);
}

void GangControl::Stop(StopOrder order) {
  {
    MutexLock lock(mutex_);
    order_ = std::max(order_, order);
  }
  ::eventfd_write(wake_.get(), 1);
}

MonotonicTime GangControl::renewed() const {
  MutexLock lock(mutex_);
  return renewed_;
}

StopOrder GangControl::order() const {
  MutexLock lock(mutex_);
  return order_;
}

void GangControl::Clear() const {
  eventfd_t ignored = 0;
  ::eventfd_read(wake_.get(), &ignored);
}

StatusOr<GangOutcome> RunGang(Spawner& spawner, const GangOptions& options, GangControl& control,
                              const GangObserver& observer) {
  GangRun run(options, control, observer);
  SBORA_RETURN_IF_ERROR(run.Start(spawner));
  return run.Run();
}

Duration HangLimit(Duration hang, std::vector<double> step_seconds) {
  if (step_seconds.empty()) return hang;
  const auto middle = step_seconds.begin() + static_cast<std::ptrdiff_t>(step_seconds.size() / 2);
  std::nth_element(step_seconds.begin(), middle, step_seconds.end());
  return std::max(hang, std::chrono::duration_cast<Duration>(std::chrono::duration<double>(10 * *middle)));
}

}  // namespace sbora::agent
