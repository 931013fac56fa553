#include "worker/agent/exit_reason.h"

#include <fmt/format.h>
#include <signal.h>
#include <string.h>

#include <algorithm>
#include <fstream>

#include "common/grpc/status_convert.h"

namespace sbora::agent {
namespace {

constexpr int kExitDone = 0;
constexpr int kExitError = 1;
constexpr int kExitStopped = 3;
constexpr int kExitEndOfFile = 4;
constexpr int kExitSelfFenced = 5;
constexpr int kExitInternal = 70;

Verdict Make(v1::TerminationReason reason, const Status& status) {
  return Verdict{.reason = reason, .failure = ToFailure(status)};
}

const RankExit* FirstBadExit(const GangOutcome& outcome) {
  for (const RankExit& exit : outcome.exits) {
    const bool good = !exit.exit.signaled && (exit.exit.value == kExitDone || exit.exit.value == kExitStopped);
    if (!exit.after_kill && !good) return &exit;
  }
  return nullptr;
}

/// The end that made other ranks say RANK_LOST: a signal, or an exit that is no error told by the rank itself.
const RankExit* CauseOfLoss(const GangOutcome& outcome) {
  for (const RankExit& exit : outcome.exits) {
    const bool told = !exit.exit.signaled && (exit.exit.value == kExitDone || exit.exit.value == kExitError ||
                                              exit.exit.value == kExitStopped);
    if (!exit.after_kill && !told) return &exit;
  }
  return nullptr;
}

bool Done(const GangOutcome& outcome) {
  const auto done = [](const RankExit& exit) { return !exit.exit.signaled && exit.exit.value == kExitDone; };
  if (outcome.first_rank > 0) return !outcome.exits.empty() && std::all_of(outcome.exits.begin(), outcome.exits.end(), done);
  if (!outcome.result) return false;
  return std::any_of(outcome.exits.begin(), outcome.exits.end(),
                     [&](const RankExit& exit) { return exit.rank == 0 && done(exit); });
}

Verdict OfOrder(StopOrder order) {
  switch (order) {
    case StopOrder::kPause:
      return Make(v1::TERMINATION_REASON_PAUSED_BY_USER, Cancelled("PAUSED", "paused by the user"));
    case StopOrder::kPreempt:
      return Make(v1::TERMINATION_REASON_PREEMPTED, Cancelled("PREEMPTED", "the worker drains or needs its slots"));
    case StopOrder::kGangEnded:
      return Make(v1::TERMINATION_REASON_WORKER_LOST, Aborted("GANG_ENDED", "the ranks on another worker have ended"));
    case StopOrder::kTimeout:
      return Make(v1::TERMINATION_REASON_ATTEMPT_TIMEOUT,
                  DeadlineExceeded("ATTEMPT_TIMEOUT", "the attempt ran out of its time; raise max_attempt_seconds"));
    case StopOrder::kCancel:
      return Make(v1::TERMINATION_REASON_CANCELLED_BY_USER, Cancelled("CANCELLED", "cancelled by the user"));
    case StopOrder::kFenced:
    case StopOrder::kNone:
      break;
  }
  return Make(v1::TERMINATION_REASON_WORKER_LOST, Aborted("LEASE_FENCED", "the lease is held by another attempt"));
}

Verdict OfExit(const RankExit& exit, const GangOutcome& outcome, const std::string& last_output) {
  const std::string tail = last_output.empty() ? "" : fmt::format("; its last output: {}", last_output);
  if (exit.exit.signaled) {
    if (outcome.oom_kills > 0 && exit.exit.value == SIGKILL) {
      return Make(v1::TERMINATION_REASON_OOM_HOST,
                  ResourceExhausted("OOM_HOST", fmt::format("rank {} was killed because the host ran out of memory; "
                                                            "lower micro_batch_size or cutoff_tokens", exit.rank)));
    }
    const char* name = ::sigabbrev_np(exit.exit.value);
    return Make(v1::TERMINATION_REASON_SIGNAL,
                Aborted("RANK_SIGNALED", fmt::format("rank {} ended by signal {} (SIG{}){}", exit.rank, exit.exit.value,
                                                     name == nullptr ? "?" : name, tail)));
  }
  switch (exit.exit.value) {
    case kExitEndOfFile:
    case kExitSelfFenced:
      return Make(v1::TERMINATION_REASON_WORKER_LOST,
                  Unavailable("RANK_FENCED", fmt::format("rank {} lost its agent or the lease and ended itself (exit "
                                                         "code {})", exit.rank, exit.exit.value)));
    case kExitInternal:
      return Make(v1::TERMINATION_REASON_INTERNAL,
                  Internal("TRAINER_INTERNAL", fmt::format("rank {} broke an invariant (exit code 70){}", exit.rank, tail)));
    default:
      return Make(v1::TERMINATION_REASON_TRAINER_ERROR,
                  Internal("RANK_EXITED", fmt::format("rank {} ended with exit code {} without saying why{}", exit.rank,
                                                      exit.exit.value, tail)));
  }
}

}  // namespace

Verdict Judge(const GangOutcome& outcome, const std::string& last_output) {
  if (outcome.order == StopOrder::kFenced) return OfOrder(StopOrder::kFenced);
  if (outcome.cause == KillCause::kOrder) return OfOrder(outcome.order);
  if (outcome.cause == KillCause::kSelfFence) {
    return Make(v1::TERMINATION_REASON_WORKER_LOST,
                Unavailable("SELF_FENCED", fmt::format("the agent had no answer from the coordinator for {:.1f} s and "
                                                       "ended the gang",
                                                       outcome.self_fence_seconds)));
  }
  if (Done(outcome)) return Verdict{.reason = v1::TERMINATION_REASON_DONE, .failure = {}};
  if (outcome.error) {
    const auto& error = *outcome.error;
    // Tasks that keep no checkpoint answer a stop with an error: the order tells why, not they.
    if (outcome.stop_sent && error.reason() == v1::TERMINATION_REASON_PREEMPTED) return OfOrder(outcome.order);
    const RankExit* const cause = IsRankLost(error) ? CauseOfLoss(outcome) : nullptr;
    if (cause != nullptr) return OfExit(*cause, outcome, last_output);
    const bool named = error.reason() != v1::TERMINATION_REASON_UNSPECIFIED;
    return Verdict{.reason = named ? error.reason() : v1::TERMINATION_REASON_TRAINER_ERROR, .failure = error.failure()};
  }
  if (outcome.cause == KillCause::kHang) {
    return Make(v1::TERMINATION_REASON_HANG,
                DeadlineExceeded("HANG", fmt::format("no progress for {:.1f} s", outcome.hang_limit_seconds)));
  }
  if (outcome.cause == KillCause::kBadMessage) return Make(v1::TERMINATION_REASON_INTERNAL, outcome.bad_message);
  if (const RankExit* bad = FirstBadExit(outcome); bad != nullptr) return OfExit(*bad, outcome, last_output);
  if (outcome.stop_sent) return OfOrder(outcome.order);
  const bool stopped = std::any_of(outcome.exits.begin(), outcome.exits.end(), [](const RankExit& exit) {
    return !exit.exit.signaled && exit.exit.value == kExitStopped;
  });
  if (stopped) return OfOrder(StopOrder::kPreempt);  // somebody sent the ranks a SIGTERM
  return Make(v1::TERMINATION_REASON_TRAINER_ERROR,
              Internal("NO_RESULT", "the ranks ended well but rank 0 sent no result"));
}

Verdict WithEstimate(Verdict verdict, int64_t estimated_bytes) {
  const bool memory = verdict.reason == v1::TERMINATION_REASON_OOM_HOST || verdict.reason == v1::TERMINATION_REASON_OOM_GPU;
  if (!memory || estimated_bytes <= 0) return verdict;
  constexpr double kGiB = 1 << 30;
  verdict.failure.set_message(fmt::format("{} (estimated for a rank with full micro-batches: {:.2f} GiB)",
                                          verdict.failure.message(), static_cast<double>(estimated_bytes) / kGiB));
  return verdict;
}

int FailingRank(const GangOutcome& outcome) {
  const bool lost = outcome.error && IsRankLost(*outcome.error);
  const RankExit* bad = lost ? CauseOfLoss(outcome) : FirstBadExit(outcome);
  return bad == nullptr ? -1 : bad->rank;
}

std::string LastLine(const std::filesystem::path& output) {
  std::ifstream in(output, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const std::streamoff size = in.tellg();
  in.seekg(std::max<std::streamoff>(0, size - 4096));
  std::string last;
  for (std::string line; std::getline(in, line);) {
    if (line.find_first_not_of(" \t\r") != std::string::npos) last = line.substr(0, 400);
  }
  return last;
}

std::string_view ExitLabel(v1::TerminationReason reason) {
  if (reason == v1::TERMINATION_REASON_DONE || reason == v1::TERMINATION_REASON_PAUSED_BY_USER ||
      reason == v1::TERMINATION_REASON_PREEMPTED) {
    return "ok";
  }
  if (reason == v1::TERMINATION_REASON_OOM_HOST) return "oom_host";
  if (reason == v1::TERMINATION_REASON_OOM_GPU) return "oom_gpu";
  if (reason == v1::TERMINATION_REASON_HANG) return "hang";
  const bool killed = reason == v1::TERMINATION_REASON_SIGNAL || reason == v1::TERMINATION_REASON_CANCELLED_BY_USER ||
                      reason == v1::TERMINATION_REASON_WORKER_LOST || reason == v1::TERMINATION_REASON_ATTEMPT_TIMEOUT;
  return killed ? "signal" : "error";
}

}  // namespace sbora::agent
