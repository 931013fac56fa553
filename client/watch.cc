// Client::Watch: one logical stream over as many broken ones as it takes.
#include <fmt/format.h>

#include <optional>
#include <utility>

#include "client/sbora_client.h"
#include "common/grpc/status_convert.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

/// What a stream may end with while the job goes on: a lost connection, a restart, or a reader that fell behind.
bool IsBreak(const Status& status) {
  if (IsRetryable(status.code())) return true;
  if (status.reason() == "WATCH_TOO_SLOW") return true;
  // gRPC's own words for a connection reset in the middle of a stream.
  return status.reason().starts_with("GRPC_") &&
         (status.code() == StatusCode::kUnknown || status.code() == StatusCode::kInternal ||
          status.code() == StatusCode::kCancelled);
}

Status Stopped() { return Cancelled("STOPPED", "stopped watching"); }

}  // namespace

struct Client::WatchState {
  int64_t sequence = 0;
  /// Messages of the present stream.
  int64_t received = 0;
  std::optional<v1::FineTuningJob> ended;
  /// The sink's own error ends the watch and is no break.
  Status sink_status;
};

Status Client::ReadStream(const std::string& name, const WatchOptions& options, const WatchSink& sink,
                          WatchState& state) {
  grpc::ClientContext context;
  const std::stop_callback cancel(options.stop, [&context] { context.TryCancel(); });
  v1::WatchFineTuningJobRequest request;
  request.set_name(name);
  request.set_after_sequence(state.sequence);
  const auto reader = jobs_->WatchFineTuningJob(&context, request);
  state.received = 0;
  v1::WatchFineTuningJobResponse message;
  while (reader->Read(&message)) {
    ++state.received;
    // Live progress carries the sequence of what came before it; everything else is seen once.
    if (!message.has_progress() && message.sequence() <= state.sequence) continue;
    state.sequence = std::max(state.sequence, message.sequence());
    if (message.has_job() && IsTerminal(message.job().state())) state.ended = message.job();
    if (sink) state.sink_status = sink(message);
    if (!state.sink_status.ok()) {
      context.TryCancel();
      break;
    }
  }
  return FromGrpc(reader->Finish());
}

StatusOr<v1::FineTuningJob> Client::Watch(const std::string& name, const WatchOptions& options, const WatchSink& sink) {
  WatchState state;
  state.sequence = options.after_sequence;
  const Clock& clock = SystemClock();
  Backoff first(options_.retry);
  Backoff again(
      {.initial = options_.retry.initial, .maximum = std::chrono::milliseconds(5000), .max_attempts = 1 << 20});
  std::optional<MonotonicTime> answered;
  while (true) {
    Status status = ReadStream(name, options, sink, state);
    if (!state.sink_status.ok()) return state.sink_status;
    if (options.stop.stop_requested()) return Stopped();
    if (state.ended) return *std::move(state.ended);
    if (state.received > 0 || status.ok()) {
      answered = clock.Now();
      again.Reset();
    }
    if (status.ok()) {
      // Ended with nothing new: the job may have ended at or before the sequence we asked for.
      auto job = GetJob(name);
      if (job.ok() && IsTerminal(job->state())) return job;
      status =
          job.ok() ? Unavailable("WATCH_ENDED", "the server closed the stream before the job ended") : job.status();
    }
    if (!IsBreak(status)) return status;
    if (options.on_break) options.on_break(status, state.sequence);
    if (answered && clock.Now() - *answered > options_.reconnect_for) {
      return status.WithContext(fmt::format("no answer for {} s", options_.reconnect_for.count() / 1000));
    }
    if (!(answered ? again : first).Wait(clock, options.stop))
      return options.stop.stop_requested() ? Stopped() : status;
  }
}

}  // namespace sbora::client
