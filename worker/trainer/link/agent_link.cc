#include "worker/trainer/link/agent_link.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/trainer/link/exit_code.h"
#include "worker/trainer/link/failure.h"
#include "worker/trainer/link/frame.h"

namespace sbora::trainer {
namespace {

constexpr double kDefaultFenceSeconds = 30;

// A signal handler can reach nothing else.
std::atomic<bool> stop_requested = false;
static_assert(std::atomic<bool>::is_always_lock_free);

[[noreturn]] void ExitNow(ExitCode code, std::string_view why) {
  LogError("trainer ends at once", {{"why", why}, {"exit_code", static_cast<int>(code)}});
  _exit(static_cast<int>(code));
}

google::protobuf::Timestamp WallTimestamp() {
  const int64_t millis = ToUnixMillis(SystemClock().WallNow());
  google::protobuf::Timestamp timestamp;
  timestamp.set_seconds(millis / 1000);
  timestamp.set_nanos(static_cast<int32_t>(millis % 1000) * 1'000'000);
  return timestamp;
}

sbora::v1::FineTuningEvent::Level ToProto(EventLevel level) {
  switch (level) {
    case EventLevel::kInfo:
      return sbora::v1::FineTuningEvent::LEVEL_INFO;
    case EventLevel::kWarn:
      return sbora::v1::FineTuningEvent::LEVEL_WARN;
    case EventLevel::kError:
      return sbora::v1::FineTuningEvent::LEVEL_ERROR;
  }
  return sbora::v1::FineTuningEvent::LEVEL_UNSPECIFIED;
}

}  // namespace

StatusOr<std::unique_ptr<AgentLink>> AgentLink::Start(int fd) {
  SBORA_ASSIGN_OR_RETURN(const auto frame, ReadFrame(fd));
  if (!frame) return DataLoss("PROTOCOL", "the agent closed the socket before it sent a task");
  v1::AgentMessage message;
  if (!message.ParseFromString(*frame) || !message.has_task()) {
    return InvalidArgument("PROTOCOL", "the first message from the agent is no TaskAssignment");
  }
  return std::unique_ptr<AgentLink>(new AgentLink(fd, std::move(*message.mutable_task())));
}

AgentLink::AgentLink(int fd, v1::TaskAssignment task)
    : fd_(fd),
      task_(std::move(task)),
      renewed_(SystemClock().Now()),
      outgoing_(std::make_unique<OutgoingQueue>(fd, [this](const Status& error) {
        const LogScope scope(LogFields());
        if (!finishing_) ExitNow(ExitCode::kAgentGone, error.message());
      })),
      watchdog_([this](const std::stop_token& stop) { Watch(stop); }),
      reader_([this] { Read(); }) {}

AgentLink::~AgentLink() {
  finishing_ = true;
  ::shutdown(fd_, SHUT_RD);
  reader_.join();
}

std::vector<LogField> AgentLink::LogFields() const {
  return {{"job", task_.job()}, {"attempt", task_.attempt()}, {"epoch", task_.epoch()}};
}

void AgentLink::Read() {
  pthread_setname_np(pthread_self(), "reader");
  const LogScope scope(LogFields());
  for (;;) {
    const auto frame = ReadFrame(fd_);
    if (finishing_ && (!frame.ok() || !*frame)) return;
    if (!frame.ok()) ExitNow(ExitCode::kAgentGone, frame.status().message());
    if (!*frame) ExitNow(ExitCode::kAgentGone, "end of file from the agent");
    v1::AgentMessage message;
    if (!message.ParseFromString(**frame)) ExitNow(ExitCode::kAgentGone, "unreadable message from the agent");
    switch (message.kind_case()) {
      case v1::AgentMessage::kStop:
        stop_requested = true;
        break;
      case v1::AgentMessage::kRenewed: {
        const MutexLock lock(mutex_);
        renewed_ = SystemClock().Now();
        break;
      }
      case v1::AgentMessage::kTask:
      case v1::AgentMessage::KIND_NOT_SET:
        LogWarn("unexpected message from the agent is ignored", {{"kind", static_cast<int>(message.kind_case())}});
        break;
    }
  }
}

void AgentLink::Watch(const std::stop_token& stop) {
  pthread_setname_np(pthread_self(), "watchdog");
  const LogScope scope(LogFields());
  const double seconds = task_.self_fence_seconds() > 0 ? task_.self_fence_seconds() : kDefaultFenceSeconds;
  const auto limit = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  for (;;) {
    MonotonicTime deadline;
    {
      const MutexLock lock(mutex_);
      deadline = renewed_ + limit;
    }
    if (SystemClock().Now() >= deadline) {
      ExitNow(ExitCode::kSelfFenced, fmt::format("no renewal of the lease for {} s", seconds));
    }
    if (!SystemClock().SleepUntil(deadline, stop)) return;
  }
}

void AgentLink::Send(const v1::TrainerMessage& message) {
  outgoing_->Send(EncodeFrame(message.SerializeAsString()));
}

void AgentLink::SendResult(const worker::v1::TaskResult& result) {
  v1::TrainerMessage message;
  *message.mutable_result() = result;
  finishing_ = true;
  Send(message);
  outgoing_->Flush();
}

void AgentLink::SendError(const Status& error) {
  v1::TrainerMessage message;
  *message.mutable_error() = ToError(error);
  finishing_ = true;
  Send(message);
  outgoing_->Flush();
}

void AgentLink::Finish() {
  finishing_ = true;
  outgoing_->Flush();
}

void AgentLink::OnProgress(const TaskProgress& progress) {
  auto* out = progress_.mutable_progress()->mutable_progress();
  out->set_step(progress.step);
  out->set_total_steps(progress.total_steps);
  out->set_loss(progress.loss);
  out->set_validation_loss(progress.validation_loss);
  out->set_tokens_per_second(progress.tokens_per_second);
  out->set_learning_rate(progress.learning_rate);
  out->set_remaining_seconds(progress.remaining_seconds);
  out->set_trained_tokens(progress.trained_tokens);
  out->set_phase(progress.phase);
  TellProgress();
}

void AgentLink::OnAlive() {
  if (SystemClock().Now() - told_ >= kAliveEvery) TellProgress();
}

void AgentLink::TellProgress() {
  told_ = SystemClock().Now();
  progress_.mutable_progress()->set_ticks(progress_.progress().ticks() + 1);
  outgoing_->SendProgress(EncodeFrame(progress_.SerializeAsString()));
}

void AgentLink::OnMetrics(const StepMetrics& metrics) {
  v1::TrainerMessage message;
  auto* out = message.mutable_metric();
  out->set_step(metrics.step);
  out->set_attempt(task_.attempt());
  *out->mutable_time() = WallTimestamp();
  out->set_loss(metrics.loss);
  out->set_learning_rate(metrics.learning_rate);
  out->set_gradient_norm(metrics.gradient_norm);
  out->set_tokens_per_second(metrics.tokens_per_second);
  out->set_trained_tokens(metrics.trained_tokens);
  if (metrics.validation_loss) out->set_validation_loss(*metrics.validation_loss);
  out->set_epoch(metrics.epoch);
  Send(message);
}

void AgentLink::OnCheckpoint(int64_t step, const std::string& directory, std::optional<double> validation_loss) {
  v1::TrainerMessage message;
  message.mutable_checkpoint()->set_step(step);
  message.mutable_checkpoint()->set_directory(directory);
  if (validation_loss) message.mutable_checkpoint()->set_validation_loss(*validation_loss);
  Send(message);
}

void AgentLink::OnEvent(EventLevel level, std::string_view type, const std::string& text) {
  LogInfo("event", {{"type", type}, {"text", text}});
  v1::TrainerMessage message;
  auto* event = message.mutable_event();
  *event->mutable_time() = WallTimestamp();
  event->set_level(ToProto(level));
  event->set_type(std::string(type));
  event->set_message(text);
  event->set_attempt(task_.attempt());
  Send(message);
}

bool AgentLink::StopRequested() { return stop_requested.load(std::memory_order_relaxed); }

void AgentLink::RequestStop() { stop_requested.store(true, std::memory_order_relaxed); }

}  // namespace sbora::trainer
