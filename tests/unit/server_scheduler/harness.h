/// A scheduler, a commit queue and a SQLite store stepped by hand: no threads, a fake clock.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/file.h"
#include "server/scheduler/commit_queue.h"
#include "server/scheduler/scheduler.h"
#include "server/store/sqlite_store.h"
#include "tests/testing/fake_clock.h"

namespace sbora::server {

class Harness {
 public:
  explicit Harness(SchedulerConfig config = {}) : config_(config) {
    // In memory where possible: thousands of commits, and none of them is about the disk.
    const bool shm = std::filesystem::is_directory("/dev/shm");
    auto directory = TempDirectory::Create(shm ? "/dev/shm" : ::testing::TempDir(), "scheduler");
    SBORA_CHECK(directory.ok(), "{}", directory.status().ToString());
    directory_ = std::make_unique<TempDirectory>(std::move(*directory));
    Restart();
  }

  /// The process dies: memory and all that is not committed is gone.
  void Restart() {
    scheduler_.reset();
    queue_ = std::make_unique<CommitQueue>();
    store_.reset();
    auto store = OpenSqliteStore({.path = directory_->path() / "sbora.db", .readers = 1});
    SBORA_CHECK(store.ok(), "{}", store.status().ToString());
    store_ = std::move(*store);
    scheduler_ = std::make_unique<Scheduler>(config_, queue_.get());
    auto state = store_->LoadActive();
    SBORA_CHECK(state.ok(), "{}", state.status().ToString());
    scheduler_->Load(std::move(*state), At());
  }

  /// Commits at most `limit` pending transitions; the number committed.
  size_t Commit(size_t limit = 1000) {
    std::vector<Transition> batch = queue_->Take(limit);
    if (batch.empty()) return 0;
    auto results = CommitBatch(*store_, batch);
    SBORA_CHECK(results.ok(), "{}", results.status().ToString());
    std::vector<uint64_t> tickets;
    for (const Transition& transition : batch) {
      if (transition.ticket != 0) tickets.push_back(transition.ticket);
    }
    scheduler_->Committed(tickets);
    for (size_t i = 0; i < batch.size(); ++i) {
      if (batch[i].done) batch[i].done((*results)[i]);
    }
    return batch.size();
  }

  std::string Submit(const std::string& id, int ranks = 1, int priority = 0,
                     const std::function<void(SubmitRequest&)>& change = {}) {
    SubmitRequest request;
    request.project = "default";
    request.id = id;
    request.name = "projects/default/fineTuningJobs/" + id;
    request.validated = true;
    request.ranks = ranks;
    request.priority = priority;
    request.payload = {.spec = "spec", .task = "task"};
    if (change) change(request);
    auto [work, transition] = Scheduler::PrepareSubmit(std::move(request), At().wall_ms);
    transition.done = [this, work = work](const Status& status) {
      SBORA_CHECK(status.ok(), "{}", status.ToString());
      scheduler_->Add(work, At());
    };
    SBORA_CHECK(scheduler_->Push(std::move(transition)).ok(), "push");
    Commit();
    Commit();
    return work.row.name;
  }

  SyncRequest Report(const std::string& worker, int slots = 2) const {
    SyncRequest request;
    request.worker = worker;
    request.instance_uuid = worker + "-1";
    for (int i = 0; i < slots; ++i) request.slots.push_back({.id = fmt::format("s{}", i), .device = DeviceKind::kCpu});
    return request;
  }

  /// A whole call: report, commit, answer (acknowledged by the next call).
  SyncResponse Sync(SyncRequest request) {
    request.acknowledged_sequence = acknowledged_[request.instance_uuid];
    const Status status = scheduler_->Synchronize(request, At(), [](const Status&) {});
    EXPECT_TRUE(status.ok()) << status;
    while (Commit() > 0) {
    }
    SyncResponse answer = Answer(request);
    acknowledged_[request.instance_uuid] = answer.sequence;
    return answer;
  }

  /// What a report that is taken in is answered now.
  SyncResponse Answer(const SyncRequest& request) {
    auto answer = scheduler_->Answer(request, /*force=*/true, At());
    SBORA_CHECK(answer.ok() && answer->has_value(), "{}", answer.status().ToString());
    return **std::move(answer);
  }

  /// `lease` in `phase`.
  static AttemptReport Attempt(const core::LeaseId& lease, AttemptPhase phase) {
    AttemptReport report;
    report.lease = lease;
    report.phase = phase;
    return report;
  }
  static ReportItem Checkpoint(int64_t sequence, int64_t step) {
    return {.sequence = sequence,
            .item = CheckpointItem{.step = step, .files = fmt::format("files{}", step), .validation_loss = {}, .object_uids = {}}};
  }

  WorkRow Stored(const std::string& name) const {
    auto work = store_->GetWork(name);
    SBORA_CHECK(work.ok(), "{}", work.status().ToString());
    return work->row;
  }
  WorkRow Row(const std::string& name) const {
    const auto work = scheduler_->Find(name);
    return work ? work->row : Stored(name);
  }
  core::JobState State(const std::string& name) const { return Row(name).state; }

  Moment At() const { return {.now = clock_.Now(), .wall_ms = ToUnixMillis(clock_.WallNow())}; }
  void Pass(Duration time) {
    clock_.Advance(time);
    scheduler_->Tick(At());
    while (Commit() > 0) {
    }
  }

  Scheduler& scheduler() { return *scheduler_; }
  Store& store() { return *store_; }
  CommitQueue& queue() { return *queue_; }
  testing::FakeClock& clock() { return clock_; }

 private:
  const SchedulerConfig config_;
  std::unique_ptr<TempDirectory> directory_;
  testing::FakeClock clock_;
  std::unique_ptr<CommitQueue> queue_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Scheduler> scheduler_;
  std::map<std::string, int64_t> acknowledged_;
};

}  // namespace sbora::server
