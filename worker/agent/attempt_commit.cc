// How an attempt's result gets home: outputs up, then one CommitAttempt until it is answered.
#include <fmt/format.h>

#include <utility>

#include "common/failpoint.h"
#include "common/file.h"
#include "common/grpc/channel.h"
#include "common/grpc/status_convert.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/agent/attempt.h"

namespace sbora::agent {

namespace fs = std::filesystem;
namespace wp = worker::v1;

namespace {

/// Tried for as long as the lease lives: hours of work hang on it.
constexpr BackoffOptions kPatient{.initial = std::chrono::milliseconds(100), .max_attempts = 1'000'000};

/// Nothing that the coordinator has judged: the connection, its load, or its store is at fault.
bool MayPass(const Status& status) {
  return IsRetryable(status.code()) || status.code() == StatusCode::kDeadlineExceeded || status.reason().starts_with("GRPC_");
}

}  // namespace

std::optional<Verdict> Attempt::Commit() {
  SetState(State::kRunning);
  SetPhase("uploading results");
  wp::CommitAttemptRequest request;
  if (const Status status = UploadOutputs(&request); !status.ok()) {
    if (control_.order() == StopOrder::kFenced) return std::nullopt;
    return OfFailure(status);
  }
  checkpoints_.reset();  // the result makes them needless
  SetState(State::kCommitting);
  request.set_worker(context_.worker);
  request.set_instance_uuid(context_.instance_uuid);
  *request.mutable_lease() = lease_.id();
  *request.mutable_result() = *result_;
  return CommitUntilAnswered(request);
}

Status Attempt::UploadOutputs(wp::CommitAttemptRequest* request) {
  SBORA_ASSIGN_OR_RETURN(const auto files, PlainFiles(folder_ / "output"));
  for (const fs::path& path : files) {
    SBORA_ASSIGN_OR_RETURN(v1::File file, UploadOutput(path));
    context_.metrics.AddTransferred("upload", file.size_bytes());
    *request->add_files() = std::move(file);
  }
  return OkStatus();
}

StatusOr<v1::File> Attempt::UploadOutput(const fs::path& path) {
  Backoff backoff(kPatient);
  while (true) {
    auto file = context_.transfer.Upload(lease_.project(), path, path.filename().string(), upload_stop_.get_token());
    if (file.ok() || !MayPass(file.status())) return file;
    LogWarn("a result cannot be uploaded yet", {{"file", path.filename().string()}, {"error", file.status().ToString()}});
    if (!backoff.Wait(SystemClock(), upload_stop_.get_token())) return file;
  }
}

std::optional<Verdict> Attempt::CommitUntilAnswered(wp::CommitAttemptRequest& request) {
  if (const size_t bytes = request.ByteSizeLong(); bytes > ReportQueue::kMaxMessageBytes) {  // refused unread, every time
    return OfFailure(ResourceExhausted("RESULT_TOO_LARGE",
                                       fmt::format("the result has {} bytes, a message holds {}; ask for fewer or "
                                                   "shorter texts",
                                                   bytes, ReportQueue::kMaxMessageBytes)));
  }
  Backoff backoff(kPatient);
  while (true) {
    request.clear_items();
    reports_.FillLast(request.mutable_items());
    if (request.ByteSizeLong() > ReportQueue::kMaxMessageBytes) request.clear_items();  // the result counts for more
    grpc::ClientContext context;
    SetDeadline(context);
    wp::CommitAttemptResponse response;
    Status status;
    FailPoint("agent.before_commit");
    {
      const std::stop_callback cancel(upload_stop_.get_token(), [&] { context.TryCancel(); });
      status = FromGrpc(context_.service.CommitAttempt(&context, request, &response));
    }
    if (status.ok()) {
      FailPoint("agent.after_commit");
      LogInfo("attempt committed");
      return std::nullopt;
    }
    if (status.reason() == "LEASE_FENCED" || control_.order() == StopOrder::kFenced) {
      LogWarn("commit refused: another attempt holds the lease; this one's result is dropped");
      return std::nullopt;
    }
    // A repeat of a commit that was taken answers OK, so everything that may be a lost answer is tried again.
    if (!MayPass(status) || !backoff.Wait(SystemClock(), upload_stop_.get_token())) return OfFailure(status);
  }
}

}  // namespace sbora::agent
