/// The ranks of one attempt: started together, watched together, ended together.
///
/// Run() is one loop over the ranks' sockets and pidfds. It ends the gang at once (SIGKILL to cgroup and process groups)
/// when a rank dies, when no renewal of the lease came for `self_fence` (counted from when the renewing request was
/// sent), when the progress counters stand still, or on a kill order; on a checkpoint order it asks first and kills
/// after `checkpoint_grace`. It returns when no process of the gang is left.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/status.h"
#include "sbora/trainer/v1/trainer.pb.h"
#include "worker/agent/cgroup.h"
#include "worker/agent/process.h"

namespace sbora::agent {

/// Why the agent ends a gang. Ordered by strength: a stronger order replaces a weaker one.
enum class StopOrder {
  kNone,
  kPreempt,  // checkpoint first: drain of the worker, or the coordinator needs the slots
  kPause,    // checkpoint first
  kGangEnded,  // kill; another part of the gang, on another worker, has ended
  kTimeout,  // kill
  kCancel,   // kill
  kFenced,   // kill and report nothing: another gang may hold the job
};
inline bool AsksForCheckpoint(StopOrder order) { return order == StopOrder::kPreempt || order == StopOrder::kPause; }
/// The job goes on: checkpoints that wait for their upload are still of use.
inline bool KeepsCheckpoints(StopOrder order) { return order <= StopOrder::kGangEnded; }

/// The mailbox between the protocol loop and a gang. Thread-safe, never blocks.
class GangControl {
 public:
  GangControl(std::chrono::steady_clock::time_point renewed);

  void Renew(MonotonicTime sent_at);
  void Stop(StopOrder order);
  MonotonicTime renewed() const;
  StopOrder order() const;
  /// Becomes readable on Renew and Stop; Clear() before looking.
  int wake_fd() const { return wake_.get(); }
  void Clear() const;

 private:
  UniqueFd wake_;
  mutable Mutex mutex_;
  MonotonicTime renewed_ SBORA_GUARDED_BY(mutex_);
  StopOrder order_ SBORA_GUARDED_BY(mutex_) = StopOrder::kNone;
};

/// The end that the agent itself brought about, if it did.
enum class KillCause { kNone, kOrder, kCheckpointGrace, kSelfFence, kHang, kRankDied, kExitGrace, kBadMessage };

struct RankExit {
  int rank = 0;
  ChildExit exit;
  /// Ended after the agent had begun to kill the gang: says nothing about the cause.
  bool after_kill = false;
};

struct GangOutcome {
  int first_rank = 0;
  std::vector<RankExit> exits;  // in the order in which they were seen
  KillCause cause = KillCause::kNone;
  StopOrder order = StopOrder::kNone;  // in force at the end
  bool stop_sent = false;
  std::optional<trainer::v1::Error> error;  // the first that a rank sent; any other before RANK_LOST
  std::optional<worker::v1::TaskResult> result;
  Status bad_message;
  int64_t oom_kills = 0;
  double hang_limit_seconds = 0;
  double self_fence_seconds = 0;
};

/// A rank only saw that another had gone.
inline bool IsRankLost(const trainer::v1::Error& error) { return error.failure().reason() == "RANK_LOST"; }

struct RankOptions {
  SpawnOptions spawn;
  trainer::v1::TaskAssignment assignment;
};

struct GangOptions {
  std::vector<RankOptions> ranks;
  /// Number of the first of `ranks`; above 0, rank 0 is on another worker.
  int first_rank = 0;
  std::optional<Cgroup> cgroup;
  Duration self_fence{};
  Duration hang{};
  Duration checkpoint_grace{};
  /// From the first good exit to the last.
  Duration exit_grace = std::chrono::seconds(10);
  /// A rank's output file is emptied above this.
  int64_t max_output_bytes = 64 * 1024 * 1024;
};

/// What a gang tells while it runs; called from the thread of Run. Must not block.
struct GangObserver {
  std::function<void(const std::vector<Child>&)> on_started;
  std::function<void(const v1::JobProgress&, int64_t ticks)> on_progress;
  std::function<void(v1::MetricPoint)> on_metric;
  std::function<void(v1::FineTuningEvent)> on_event;
  std::function<void(trainer::v1::CheckpointWritten)> on_checkpoint;
  std::function<void()> on_stopping;
};

/// Starts the gang and returns its outcome once no process of it is left. Errors: a rank could not be started (those
/// already started are ended first). Threads: call from one of your own; `control` takes orders from others meanwhile.
StatusOr<GangOutcome> RunGang(Spawner& spawner, const GangOptions& options, GangControl& control,
                              const GangObserver& observer);

/// max(hang, 10 x the median step time); `step_seconds` are the latest steps' durations.
Duration HangLimit(Duration hang, std::vector<double> step_seconds);

}  // namespace sbora::agent
