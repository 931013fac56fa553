/// The coordinator's class. Private to server/scheduler.
///
/// Threads: the store thread commits what the scheduler decided and then, in order, publishes, answers and wakes; the
/// timer thread lets due things happen. Locks, outer to inner: polls_mutex_ -> the scheduler's -> the queue's.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <future>
#include <map>
#include <thread>

#include "common/mutex.h"
#include "server/scheduler/commit_queue.h"
#include "server/scheduler/coordinator.h"
#include "server/scheduler/scheduler.h"

namespace sbora::server {

class CoordinatorImpl : public Coordinator {
 public:
  CoordinatorImpl(CoordinatorOptions options, const Clock& clock);
  ~CoordinatorImpl() override;
  Status Begin();

  StatusOr<Work> Submit(SubmitRequest request) override;
  StatusOr<std::optional<Work>> FindSubmitted(std::string_view project, std::string_view request_id,
                                              std::string_view request_hash) const override;
  Status MarkValidated(std::string_view name, EventItem found) override;
  Status FailValidation(std::string_view name, Failure failure) override;
  StatusOr<Work> Cancel(std::string_view name, int64_t tag) override;
  StatusOr<Work> Pause(std::string_view name, int64_t tag) override;
  StatusOr<Work> Resume(std::string_view name, int64_t tag) override;
  Status Delete(std::string_view name, int64_t tag) override;
  StatusOr<Work> Wait(std::string_view name, MonotonicTime deadline) override;
  StatusOr<std::unique_ptr<Watcher>> Watch(std::string_view name, int64_t after_sequence,
                                           std::function<void()> wake) override;
  std::string Progress(std::string_view work_uid) const override { return scheduler_.Progress(work_uid); }

  uint64_t Synchronize(SyncRequest request, SyncDone done) override;
  void CancelSync(uint64_t handle) override;
  StatusOr<Work> CheckLease(const core::LeaseId& lease, bool* committed) override;
  Status CommitAttempt(CommitRequest request) override;
  StatusOr<WorkerView> DrainWorker(std::string_view name) override;
  std::vector<WorkerView> ListWorkers() const override { return scheduler_.ListWorkers(); }

  Status Write(std::vector<Mutation> mutations) override;
  StatusOr<std::optional<ResourceRow>> FindCreated(std::string_view project, std::string_view request_id,
                                                   std::string_view request_hash) const override;
  StatusOr<ResourceRow> CreateResource(ResourceRow row, std::vector<Mutation> extra, RequestRow request,
                                       bool* existing) override;

  bool serving() const override { return serving_; }
  SchedulerSnapshot Snapshot() const override { return scheduler_.Snapshot(Now()); }
  const Store& store() const override { return *options_.store; }
  void RunDue() override;

 private:
  struct Poll {
    uint64_t handle = 0;
    SyncRequest request;
    SyncDone done;
    MonotonicTime deadline{};
    bool taken_in = false;  // its report is durable: it may be answered
  };
  /// Holds the stripes of some keys, so that two calls about one name or request_id take turns.
  class KeyLocks;

  Moment Now() const;
  /// Runs `decide` with a Done and waits until it was called; an immediate error is returned as it is.
  template <typename Decide>
  Status Durable(const Decide& decide);
  /// Decides about active work; for work that is not in memory says why from the store.
  template <typename Decide>
  StatusOr<Work> DecideWork(std::string_view name, const Decide& decide);
  /// The row of an earlier call with the same content; nullopt for a new or empty request_id.
  StatusOr<std::optional<RequestRow>> FindEarlier(std::string_view project, std::string_view request_id,
                                                  std::string_view request_hash) const;

  /// What a commit is answered whose resource `name` is there before it: OK when an earlier call of it made that just now.
  Status CommittedMeanwhile(const core::LeaseId& lease, std::string_view name);

  void StoreThread(const std::stop_token& stop);
  void TimerThread(const std::stop_token& stop);
  void AfterCommit(std::vector<Transition> batch, std::vector<Status> results);
  /// Memory and store have parted: drop memory, then load again as soon as the store can be written.
  void Recover(std::vector<Transition> batch, const Status& why, const std::stop_token& stop);
  void AnswerPoll(const std::string& worker, bool force);
  void FailPolls(const Status& why);
  void SetServing(bool serving);

  const CoordinatorOptions options_;
  const Clock& clock_;
  CommitQueue queue_;
  Scheduler scheduler_;
  WatchHub hub_;
  std::atomic<bool> serving_ = false;

  Mutex polls_mutex_;
  uint64_t next_handle_ SBORA_GUARDED_BY(polls_mutex_) = 1;
  std::map<std::string, Poll> polls_ SBORA_GUARDED_BY(polls_mutex_);  // by worker

  Mutex ended_mutex_;
  std::condition_variable_any ended_;
  uint64_t ended_count_ SBORA_GUARDED_BY(ended_mutex_) = 0;
  bool closing_ SBORA_GUARDED_BY(ended_mutex_) = false;

  static constexpr size_t kStripes = 256;
  std::array<Mutex, kStripes> stripes_;

  std::jthread store_thread_;
  std::jthread timer_thread_;
};

}  // namespace sbora::server
