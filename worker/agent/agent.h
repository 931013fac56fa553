/// sbora-worker's heart: joins the coordinator, takes leases, runs attempts, drains.
///
/// Threads: the protocol loop (one), one for each attempt and its uploads, the spawner, the HTTP port. Start() cleans up
/// what an earlier run left, under a lock that keeps two agents off one data folder.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "common/file.h"
#include "common/mutex.h"
#include "sbora/config/v1/worker.pb.h"
#include "worker/agent/attempt.h"
#include "worker/agent/http_status.h"
#include "worker/agent/protocol_step.h"

namespace sbora::agent {

class Agent {
 public:
  /// `config` has its defaults and is checked. Errors: FailedPrecondition DATA_DIR_IN_USE, those of the parts.
  static StatusOr<std::unique_ptr<Agent>> Start(const config::v1::WorkerConfig& config);
  /// Ends what runs, at once.
  ~Agent();

  /// No new leases, checkpoints, release; Wait() returns when that is done or drain_seconds are over. Thread-safe.
  void Drain();
  /// OK after a drain; FailedPrecondition PROTOCOL_VERSION when the coordinator speaks another version,
  /// WORKER_REPLACED when a younger agent uses our name.
  Status Wait();
  /// Of the HTTP port; empty when there is none.
  std::string http_address() const { return http_ == nullptr ? "" : http_->address(); }

 private:
  explicit Agent(const config::v1::WorkerConfig& config);
  Status Open();
  void Run(const std::stop_token& stop);
  worker::v1::SynchronizeRequest MakeRequest();
  Status Synchronize(const std::stop_token& stop, std::chrono::milliseconds deadline);
  void Carry(Decision decision, MonotonicTime sent_at);
  void RemoveGone();
  bool DrainDone();
  void Pause(Duration wait, const std::stop_token& stop);
  void Wake();
  void Nudge();
  void NoteFirstAnswer();
  void End(Status status);

  const config::v1::WorkerConfig config_;
  const std::string instance_uuid_;
  UniqueFd lock_file_;
  std::vector<worker::v1::Slot> slots_;
  std::vector<std::string> gpus_;  // names
  AgentMetrics metrics_;
  std::unique_ptr<Spawner> spawner_;
  std::unique_ptr<Cache> cache_;
  std::unique_ptr<TransferClient> transfer_;
  std::unique_ptr<worker::v1::WorkerService::Stub> service_;
  std::unique_ptr<AttemptContext> context_;

  // Of the protocol loop's thread alone.
  ProtocolState state_;
  std::map<std::string, std::unique_ptr<Attempt>> attempts_;
  std::vector<HeldAttempt> reported_;
  Duration pause_{};
  bool answered_ = false;
  bool drain_ordered_ = false;

  Mutex mutex_;
  std::condition_variable_any changed_;
  grpc::ClientContext* call_ SBORA_GUARDED_BY(mutex_) = nullptr;  // borrowed from Synchronize while it waits
  MonotonicTime call_sent_ SBORA_GUARDED_BY(mutex_);
  bool cut_short_ SBORA_GUARDED_BY(mutex_) = false;  // the last call was, so this one runs to its answer
  bool woken_ SBORA_GUARDED_BY(mutex_) = false;
  std::optional<MonotonicTime> drain_deadline_ SBORA_GUARDED_BY(mutex_);
  std::optional<Status> ended_ SBORA_GUARDED_BY(mutex_);
  MonotonicTime alive_ SBORA_GUARDED_BY(mutex_);

  std::unique_ptr<HttpStatus> http_;
  std::jthread thread_;
};

}  // namespace sbora::agent
