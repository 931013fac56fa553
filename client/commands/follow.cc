#include <fmt/format.h>

#include "client/commands/commands.h"
#include "client/error_report.h"
#include "client/interrupt.h"
#include "common/grpc/status_convert.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

constexpr size_t kLineWidth = 110;

/// What is known of the job while it is followed, drawn on the progress line.
class JobView {
 public:
  explicit JobView(ProgressLine& line) : line_(line) {}

  void Take(const v1::WatchFineTuningJobResponse& message) {
    if (message.has_change()) Note(message.change());
    switch (message.payload_case()) {
      case v1::WatchFineTuningJobResponse::kJob:
        TakeJob(message.job());
        break;
      case v1::WatchFineTuningJobResponse::kEvent:
        Note(message.event());
        return;
      case v1::WatchFineTuningJobResponse::kMetric:
        progress_.set_step(message.metric().step());
        progress_.set_loss(message.metric().loss());
        progress_.set_tokens_per_second(message.metric().tokens_per_second());
        break;
      case v1::WatchFineTuningJobResponse::kProgress:
        progress_ = message.progress();
        break;
      case v1::WatchFineTuningJobResponse::PAYLOAD_NOT_SET:
        return;
    }
    line_.Update(StateName(state_), RenderJobProgress(state_, progress_, kLineWidth));
  }

 private:
  void Note(const v1::FineTuningEvent& event) {
    if (event.level() >= v1::FineTuningEvent::LEVEL_WARN) line_.Note(FormatEvent(event));
  }

  void TakeJob(const v1::FineTuningJob& job) {
    if (job.state() == v1::FineTuningJob::STATE_PAUSED && state_ != job.state()) {
      const bool held = job.termination_reason() == v1::TERMINATION_REASON_NO_SPACE;
      line_.Note(fmt::format("paused{}; go on with: sbora-client jobs resume {}",
                             held ? " (" + job.failure().message() + ")" : "", ShortName(job.name())));
    }
    state_ = job.state();
    if (job.has_progress()) progress_ = job.progress();
  }

  ProgressLine& line_;  // must outlive
  v1::FineTuningJob::State state_ = v1::FineTuningJob::STATE_QUEUED;
  v1::JobProgress progress_;
};

ExitCode EndOf(CommandContext& context, const v1::FineTuningJob& job) {
  const std::string id = ShortName(job.name());
  if (job.state() == v1::FineTuningJob::STATE_SUCCEEDED) {
    context.Note(fmt::format("job {} succeeded; its adapter: sbora-client pull {} -o DIR", id, id));
    return ExitCode::kOk;
  }
  if (job.state() == v1::FineTuningJob::STATE_CANCELLED) {
    context.Note(fmt::format("job {} was cancelled", id));
    return ExitCode::kCancelled;
  }
  const Status failure = FromFailure(job.failure());
  context.err() << fmt::format("error: job {} failed: {} [{}]\nhint: its events say more: sbora-client jobs logs {}\n",
                               id,
                               failure.ok() ? v1::TerminationReason_Name(job.termination_reason()) : failure.message(),
                               failure.ok() ? "JOB_FAILED" : failure.reason(), id);
  return ExitCode::kFailed;
}

}  // namespace

CommandResult FollowJob(CommandContext& context, const std::string& job, bool stream) {
  SBORA_ASSIGN_OR_RETURN(Client* const client, context.Connect());
  const std::string name = client->ResourceName("fineTuningJobs", job);
  WaitScope wait(context.globals().timeout_seconds);
  ProgressLine line(context.err(), SystemClock(), context.ProgressStyle());
  JobView view(line);
  const bool streamed = stream && context.globals().output != OutputFormat::kTable;
  WatchOptions options;
  options.stop = wait.token();
  options.on_break = [&](const Status& why, int64_t sequence) {
    line.Note(fmt::format("connection lost after event {} ({}); trying again", sequence, why.message()));
  };
  auto ended = client->Watch(name, options, [&](const v1::WatchFineTuningJobResponse& message) {
    if (streamed) {
      context.PrintStreamed(message);
    } else {
      view.Take(message);
    }
    return OkStatus();
  });
  line.Finish();
  if (!ended.ok()) {
    const std::string id = ShortName(name);
    return wait.Explain(ended.status(),
                        fmt::format("job {} goes on without you. Follow it again: sbora-client watch {}; end it: "
                                    "sbora-client jobs cancel {}",
                                    id, id, id));
  }
  if (!streamed) context.Print(*ended);
  return EndOf(context, *ended);
}

}  // namespace sbora::client
