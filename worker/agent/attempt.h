/// One lease on this worker, from its files to its end. A thread of its own goes through fetch, prepare, run, upload and
/// commit; the protocol loop looks in through Report() and gives orders through Renew() and Stop().
///
///   preparing -> running -> committing -> gone           (committed, or fenced)
///        \           \-> stopping -> ended               (reported until the coordinator has taken it in)
///
/// Of a gang over several workers this is one part: it waits at the end of `preparing` until all parts are ready, and without
/// rank 0 it ends instead of committing.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/grpc/transfer_client.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "sbora/worker/v1/worker.grpc.pb.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/cache.h"
#include "worker/agent/checkpoint_uploader.h"
#include "worker/agent/exit_reason.h"
#include "worker/agent/gang.h"
#include "worker/agent/gang_port.h"
#include "worker/agent/journal.h"
#include "worker/agent/process.h"
#include "worker/agent/protocol_step.h"
#include "worker/agent/report_queue.h"

namespace sbora::agent {

/// What all attempts of an agent share. The references must outlive the attempts.
struct AttemptContext {
  Spawner& spawner;
  Cache& cache;
  TransferClient& transfer;
  worker::v1::WorkerService::StubInterface& service;
  AgentMetrics& metrics;
  std::string worker;
  std::string instance_uuid;
  std::string gang_address;  // empty: this worker takes no part in gangs over several workers
  std::filesystem::path attempts_folder;
  std::filesystem::path trainer;
  Duration checkpoint_grace;
  std::map<std::string, worker::v1::Slot> slots;
  /// Called from the attempt's thread after a change of state that the coordinator should hear of soon.
  std::function<void()> on_change;
  /// Called after progress, metrics and events.
  std::function<void()> on_news;
};

class Attempt {
 public:
  /// Starts at once. `renewed`: when the request whose answer brought the lease was sent.
  Attempt(AttemptContext& context, worker::v1::Lease lease, MonotonicTime renewed);
  /// An attempt that ended before it began.
  Attempt(AttemptContext& context, worker::v1::Lease lease, const Status& refused);
  /// Kills what runs, waits for it, removes the attempt's folder.
  ~Attempt();

  /// Nullopt once gone.
  std::optional<worker::v1::AttemptReport> Report();
  HeldAttempt Held() const;
  /// `rendezvous`: of a gang over several workers that may start, else empty.
  void Renew(MonotonicTime sent_at, int64_t acknowledged_item, const std::string& rendezvous);
  void Stop(StopOrder order);
  /// Nothing is left to be told: committed, or fenced.
  bool gone() const;

 private:
  enum class State { kPreparing, kRunning, kStopping, kCommitting, kEnded, kGone };

  void Run();
  Verdict Work();
  Status MakeFolders();
  Status FetchInputs();
  void RejectCheckpoint(const std::string& name, const Status& why);
  StatusOr<std::vector<CachePin>> FetchGroup(const worker::v1::InputGroup& group);
  Status FetchFile(const v1::File& file, const std::filesystem::path& destination);
  std::optional<Verdict> PrepareNf4Base();
  std::optional<Verdict> PrepareTokenCaches();
  /// What the cache holds under `key`, or what one trainer makes in `folder`: `use` gets where it is kept, and it stays.
  std::optional<Verdict> PrepareFolder(const std::string& key, const std::filesystem::path& folder,
                                       const std::function<StatusOr<GangOptions>()>& make_gang,
                                       const std::function<void(const std::filesystem::path&)>& use);
  void UseTokenCaches(const std::filesystem::path& folder);
  /// A gang over several workers: of which this is a part.
  bool SpansWorkers() const { return lease_.world_size() > lease_.slots_size(); }
  bool Leads() const { return lease_.first_rank() == 0; }
  /// Tells the coordinator that this part is ready and waits until all are.
  std::optional<Verdict> AwaitGang();
  Verdict RunRanks();
  /// A trainer cannot tell damaged bytes from bad ones. When it found fault with what it read, the files are hashed
  /// again: with a damaged one the verdict becomes TRAINER_ERROR, CACHE_DAMAGED, which is tried again; a bad input stays
  /// what it is. Damaged files leave the cache, and so does what was made from them, which has no hash to clear it.
  Verdict RecheckInputs(Verdict verdict);
  GangOptions MakeGang(bool prepare_only) const;
  RankOptions MakeRank(int index, bool prepare_only) const;
  /// How many ranks there are, and where this one finds the others.
  void SetMeeting(RankOptions& options) const;
  GangObserver MakeObserver();
  StatusOr<GangOutcome> RunOneGang(GangOptions options, const GangObserver& observer);
  Verdict JudgeGang(const GangOutcome& outcome) const;
  Verdict OfFailure(const Status& status) const;
  Verdict OfPendingOrder() const;
  std::optional<Verdict> Commit();
  Status UploadOutputs(worker::v1::CommitAttemptRequest* request);
  StatusOr<v1::File> UploadOutput(const std::filesystem::path& path);
  std::optional<Verdict> CommitUntilAnswered(worker::v1::CommitAttemptRequest& request);
  Status SaveJournal(const std::vector<Child>& children, const std::optional<Cgroup>& cgroup) const;
  void NoteMetric(v1::MetricPoint metric);
  void SetState(State state);
  void SetPhase(std::string phase);
  void End(Verdict verdict);
  void RemoveFolder();
  std::string MethodName() const;
  std::vector<LogField> LogFields() const;

  AttemptContext& context_;
  const worker::v1::Lease lease_;
  const Timing timing_;
  const std::filesystem::path folder_;
  GangControl control_;
  ReportQueue reports_;
  std::stop_source work_stop_;    // any order: ends fetching
  std::stop_source upload_stop_;  // an order to kill: ends uploads and the commit too
  std::map<std::string, std::string> directories_;
  std::vector<CachePin> pins_;  // of files
  std::vector<CachePin> made_;  // of folders: token caches, NF4 base
  std::unique_ptr<CheckpointUploader> checkpoints_;
  std::optional<worker::v1::TaskResult> result_;
  int64_t trained_tokens_ = 0;

  mutable Mutex mutex_;
  State state_ SBORA_GUARDED_BY(mutex_) = State::kPreparing;
  std::string phase_ SBORA_GUARDED_BY(mutex_);
  v1::JobProgress progress_ SBORA_GUARDED_BY(mutex_);
  int64_t ticks_ SBORA_GUARDED_BY(mutex_) = 0;
  Verdict verdict_ SBORA_GUARDED_BY(mutex_);
  bool reported_ended_ SBORA_GUARDED_BY(mutex_) = false;
  // Of a gang over several workers.
  std::optional<GangPort> port_;  // of the part that leads; set before `ready_`
  bool ready_ SBORA_GUARDED_BY(mutex_) = false;
  std::string rendezvous_ SBORA_GUARDED_BY(mutex_);
  std::condition_variable_any gang_may_start_;
  std::jthread thread_;
};

}  // namespace sbora::agent
