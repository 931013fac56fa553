#include "server/scheduler/scheduler.h"

#include <gmock/gmock.h>

#include "tests/unit/server_scheduler/harness.h"

namespace sbora::server {
namespace {

using core::JobState;
using core::TerminationReason;
using std::chrono::milliseconds;
using std::chrono::seconds;

class SchedulerTest : public ::testing::Test {
 protected:
  /// Submits `id`, gives it to worker "w" and lets it run.
  core::LeaseId Run(const std::string& name) {
    const SyncResponse granted = h_.Sync(h_.Report("w"));
    SBORA_CHECK(granted.start.size() == 1, "{} starts", granted.start.size());
    SBORA_CHECK(granted.start[0].resource == name, "{}", granted.start[0].resource);
    SyncRequest running = h_.Report("w");
    running.attempts = {Harness::Attempt(granted.start[0].lease, AttemptPhase::kRunning)};
    h_.Sync(running);
    return granted.start[0].lease;
  }
  SyncResponse SyncWith(AttemptReport report) {
    SyncRequest request = h_.Report("w");
    request.attempts = {std::move(report)};
    return h_.Sync(std::move(request));
  }
  SyncResponse End(const core::LeaseId& lease, TerminationReason reason) {
    AttemptReport report = Harness::Attempt(lease, AttemptPhase::kEnded);
    report.reason = reason;
    report.failure = {.code = 13, .reason = "X", .message = "said the trainer"};
    return SyncWith(std::move(report));
  }
  Status CommitAttempt(const core::LeaseId& lease, const std::string& worker = "w") {
    CommitRequest request;
    request.worker = worker;
    request.instance_uuid = worker + "-1";
    request.lease = lease;
    request.result = "result";
    const Status status = h_.scheduler().CommitAttempt(request, h_.At(), [](const Status&) {});
    while (h_.Commit() > 0) {
    }
    return status;
  }

  Harness h_;
};

TEST_F(SchedulerTest, RunsAJobToItsEnd) {
  const std::string name = h_.Submit("a");
  EXPECT_EQ(h_.State(name), JobState::kQueued);
  const core::LeaseId lease = Run(name);
  EXPECT_EQ(h_.State(name), JobState::kRunning);
  EXPECT_EQ(lease.epoch, 1);
  ASSERT_TRUE(CommitAttempt(lease).ok());
  const WorkRow row = h_.Stored(name);
  EXPECT_EQ(row.state, JobState::kSucceeded);
  EXPECT_EQ(row.reason, TerminationReason::kDone);
  EXPECT_EQ(row.result, "result");
  EXPECT_EQ(row.attempt, 1);
  EXPECT_FALSE(h_.scheduler().Find(name).has_value()) << "ended work stays in memory";
  EXPECT_TRUE(CommitAttempt(lease).ok()) << "a repeat of the accepted commit is OK";
  auto events = h_.store().ListEvents(row.uid, 0, 100);
  ASSERT_TRUE(events.ok());
  for (size_t i = 0; i < events->size(); ++i) EXPECT_EQ((*events)[i].sequence, static_cast<int64_t>(i) + 1);
  EXPECT_THAT(events->back().message, ::testing::HasSubstr("RUNNING -> SUCCEEDED"));
}

TEST_F(SchedulerTest, NothingLeavesBeforeTheCommit) {
  h_.Submit("a");
  const SyncRequest request = h_.Report("w");
  ASSERT_TRUE(h_.scheduler().Synchronize(request, h_.At(), [](const Status&) {}).ok());
  EXPECT_TRUE(h_.Answer(request).start.empty()) << "a lease left before its commit";
  h_.Commit();
  EXPECT_EQ(h_.Answer(request).start.size(), 1u);
}

TEST_F(SchedulerTest, ADroppedMemoryAnswersNothing) {
  const std::string name = h_.Submit("a");
  const core::LeaseId lease = Run(name);
  SyncRequest ended = h_.Report("w");
  ended.attempts = {Harness::Attempt(lease, AttemptPhase::kEnded)};
  ended.attempts[0].reason = TerminationReason::kHang;
  ended.acknowledged_sequence = 1000;
  ASSERT_TRUE(h_.scheduler().Synchronize(ended, h_.At(), [](const Status&) {}).ok());
  // The commit fails. An empty answer would tell the agent that its word was heard, and it would never say it again.
  h_.scheduler().Drop();
  EXPECT_EQ(h_.scheduler().Answer(ended, true, h_.At()).status().reason(), "NOT_SERVING");
  h_.Restart();
  EXPECT_EQ(h_.State(name), JobState::kRunning);
  h_.Sync(ended);
  EXPECT_EQ(h_.State(name), JobState::kRecovering);
}

TEST_F(SchedulerTest, RepeatsAStartUntilItIsReported) {
  h_.Submit("a");
  const auto first = h_.Sync(h_.Report("w"));
  const auto second = h_.Sync(h_.Report("w"));
  ASSERT_EQ(first.start.size(), 1u);
  ASSERT_EQ(second.start.size(), 1u);
  EXPECT_EQ(first.start[0].lease, second.start[0].lease);
  const auto third = SyncWith(Harness::Attempt(first.start[0].lease, AttemptPhase::kPreparing));
  EXPECT_TRUE(third.start.empty());
  EXPECT_EQ(third.renewed.size(), 1u);
}

TEST_F(SchedulerTest, AStartThatNeverArrivesIsGivenBackInTheEnd) {
  const std::string name = h_.Submit("a");
  int offers = 0;
  for (int i = 0; i < 100 && h_.State(name) == JobState::kStarting; ++i) {
    offers += static_cast<int>(h_.Sync(h_.Report("w")).start.size());
    h_.Pass(seconds(5));  // every answer gets lost, and the agent asks again
  }
  EXPECT_EQ(h_.State(name), JobState::kRecovering) << "renewed for ever by offers alone";
  EXPECT_EQ(offers, 10);
}

TEST_F(SchedulerTest, LargeTasksComeInAnswersOfTheirOwn) {
  for (const char* id : {"a", "b", "c"}) {
    h_.Submit(id, 1, 0, [](SubmitRequest& request) { request.payload.task = std::string(2 << 20, 'x'); });
  }
  std::vector<AttemptReport> held;
  for (size_t round = 1; round <= 3; ++round) {
    SyncRequest report = h_.Report("w", 3);
    report.attempts = held;
    const auto answer = h_.Sync(report);
    ASSERT_EQ(answer.start.size(), 1u) << round;
    held.push_back(Harness::Attempt(answer.start[0].lease, AttemptPhase::kPreparing));
  }
}

TEST_F(SchedulerTest, ExpiresAndGrantsAgainAfterTheRedispatchTimeOnly) {
  const std::string name = h_.Submit("a");
  const core::LeaseId old = Run(name);
  h_.Pass(milliseconds(59'999));
  EXPECT_EQ(h_.State(name), JobState::kRunning);
  h_.Pass(milliseconds(1));
  EXPECT_EQ(h_.State(name), JobState::kRecovering);
  EXPECT_EQ(h_.Row(name).recovery_count, 1);
  EXPECT_EQ(h_.Row(name).failed_attempts, 0);
  const Status late = CommitAttempt(old);
  EXPECT_EQ(late.reason(), "LEASE_FENCED") << late;
  EXPECT_TRUE(h_.Sync(h_.Report("v")).start.empty());
  h_.Pass(milliseconds(4'999));
  EXPECT_TRUE(h_.Sync(h_.Report("v")).start.empty());
  h_.Pass(milliseconds(1));  // 65 s after the last renewal, and no back-off on top
  const auto again = h_.Sync(h_.Report("v"));
  ASSERT_EQ(again.start.size(), 1u);
  EXPECT_EQ(again.start[0].lease.epoch, 2);
  EXPECT_EQ(again.start[0].attempt, 2);
  // The old holder comes back: it is told to stop, and gets nothing renewed.
  const auto stale = SyncWith(Harness::Attempt(old, AttemptPhase::kRunning));
  EXPECT_TRUE(stale.renewed.empty());
  ASSERT_EQ(stale.stop.size(), 1u);
  EXPECT_EQ(stale.stop[0].reason, StopReason::kFenced);
}

TEST_F(SchedulerTest, WorkersLostInARowBackOffFromTheSecondOn) {
  const std::string name = h_.Submit("a");
  for (const int wait : {5, 10, 20, 40}) {  // after the expiry at 60 s; 5 s is the re-dispatch margin
    Run(name);
    h_.Pass(seconds(60));
    h_.Pass(seconds(wait) - milliseconds(1));
    EXPECT_EQ(h_.State(name), JobState::kRecovering) << wait;
    h_.Pass(milliseconds(1));
    EXPECT_NE(h_.State(name), JobState::kRecovering) << wait;
  }
  EXPECT_EQ(h_.Row(name).recovery_count, 4);
  EXPECT_EQ(h_.Row(name).failed_attempts, 0);
}

TEST_F(SchedulerTest, WorkThatComesBackKeepsItsPlace) {
  const std::string first = h_.Submit("c", 2);
  core::LeaseId lease = Run(first);
  const std::string second = h_.Submit("b", 2);
  const std::string third = h_.Submit("a", 2);
  ASSERT_TRUE(h_.scheduler().Pause(second, 0, h_.At(), nullptr).ok());
  ASSERT_TRUE(h_.scheduler().Resume(second, 0, h_.At(), nullptr).ok());
  auto next = End(lease, TerminationReason::kPreempted);
  ASSERT_EQ(next.start.size(), 1u);
  EXPECT_EQ(next.start[0].resource, first) << "preempted work went to the end";
  next = End(next.start[0].lease, TerminationReason::kNonFinite);
  ASSERT_EQ(next.start.size(), 1u);
  EXPECT_EQ(next.start[0].resource, second) << "resumed work went to the end";
  next = End(next.start[0].lease, TerminationReason::kNonFinite);
  ASSERT_EQ(next.start.size(), 1u);
  EXPECT_EQ(next.start[0].resource, third);
}

TEST_F(SchedulerTest, ARestartKeepsTheOrderOfAcceptance) {
  std::vector<std::string> names;
  for (int i = 0; i < 5; ++i) {
    // As uids of one millisecond, or of a clock that was set back, may come out.
    names.push_back(h_.Submit(fmt::format("j{}", i), 2, 0, [i](SubmitRequest& r) { r.uid = fmt::format("uid-{}", 9 - i); }));
  }
  h_.Restart();
  auto next = h_.Sync(h_.Report("w"));
  for (const std::string& name : names) {
    ASSERT_EQ(next.start.size(), 1u);
    EXPECT_EQ(next.start[0].resource, name);
    next = End(next.start[0].lease, TerminationReason::kNonFinite);
  }
}

TEST_F(SchedulerTest, RenewalsKeepALeaseForEver) {
  const std::string name = h_.Submit("a");
  const core::LeaseId lease = Run(name);
  for (int i = 0; i < 100; ++i) {
    h_.Pass(seconds(50));
    EXPECT_EQ(SyncWith(Harness::Attempt(lease, AttemptPhase::kRunning)).renewed.size(), 1u);
  }
  EXPECT_EQ(h_.State(name), JobState::kRunning);
}

TEST_F(SchedulerTest, ThreeAttemptsWithoutACheckpointEndAJob) {
  const std::string name = h_.Submit("a");
  for (int attempt = 1; attempt <= 3; ++attempt) {
    const core::LeaseId lease = Run(name);
    EXPECT_EQ(lease.epoch, attempt);
    End(lease, TerminationReason::kTrainerError);
    if (attempt < 3) {
      EXPECT_EQ(h_.State(name), JobState::kRecovering);
      const int backoff = attempt == 1 ? 10 : 20;
      h_.Pass(seconds(backoff) - milliseconds(1));
      EXPECT_EQ(h_.State(name), JobState::kRecovering) << attempt;
      h_.Pass(milliseconds(1));
      EXPECT_NE(h_.State(name), JobState::kRecovering) << attempt;
    }
  }
  EXPECT_EQ(h_.Stored(name).state, JobState::kFailed);
  EXPECT_EQ(h_.Stored(name).reason, TerminationReason::kTrainerError);
  EXPECT_EQ(h_.Stored(name).failure.message, "said the trainer");
}

TEST_F(SchedulerTest, ACheckpointResetsTheCountAndIsHandedToTheNextAttempt) {
  const std::string name = h_.Submit("a");
  for (int attempt = 1; attempt <= 5; ++attempt) {
    const core::LeaseId lease = Run(name);
    AttemptReport report = Harness::Attempt(lease, AttemptPhase::kEnded);
    report.reason = TerminationReason::kHang;
    report.items = {Harness::Checkpoint(1, attempt * 10)};
    SyncWith(std::move(report));
    EXPECT_EQ(h_.State(name), JobState::kRecovering);
    EXPECT_EQ(h_.Row(name).failed_attempts, 0);
    h_.Pass(seconds(10));
  }
  const auto next = h_.Sync(h_.Report("w"));
  ASSERT_EQ(next.start.size(), 1u);
  EXPECT_EQ(next.start[0].checkpoint_step, 50);
  EXPECT_EQ(next.start[0].checkpoint_files, "files50");
  EXPECT_EQ(next.start[0].older_checkpoint_files, "files40") << "what to use when the newest is damaged";
  EXPECT_EQ(h_.store().ListCheckpoints(h_.Row(name).uid, -1, 10)->size(), 2u) << "two checkpoints are kept";
}

TEST_F(SchedulerTest, BothCheckpointsOutliveARestart) {
  const std::string name = h_.Submit("a");
  AttemptReport report = Harness::Attempt(Run(name), AttemptPhase::kEnded);
  report.reason = TerminationReason::kPreempted;
  report.items = {Harness::Checkpoint(1, 10), Harness::Checkpoint(2, 20), Harness::Checkpoint(3, 30)};
  h_.scheduler().DrainWorker("w", h_.At(), nullptr).status().IgnoreError("it gets no work back");
  SyncWith(std::move(report));
  h_.Restart();
  const auto next = h_.Sync(h_.Report("v"));
  ASSERT_EQ(next.start.size(), 1u);
  EXPECT_EQ(next.start[0].checkpoint_files, "files30");
  EXPECT_EQ(next.start[0].older_checkpoint_files, "files20");
}

TEST_F(SchedulerTest, AnAttemptThatWentBackToTheOlderCheckpointMakesTheNewestAndCountsAsProgress) {
  const std::string name = h_.Submit("a");
  AttemptReport first = Harness::Attempt(Run(name), AttemptPhase::kEnded);
  first.reason = TerminationReason::kHang;
  first.items = {Harness::Checkpoint(1, 10), Harness::Checkpoint(2, 20)};
  SyncWith(std::move(first));
  h_.Pass(seconds(10));
  // The checkpoint of step 20 turned out damaged: training went on from 10, and failed at 16.
  AttemptReport second = Harness::Attempt(Run(name), AttemptPhase::kEnded);
  second.reason = TerminationReason::kHang;
  second.items = {Harness::Checkpoint(1, 15)};
  SyncWith(std::move(second));
  EXPECT_EQ(h_.Row(name).checkpoint_step, 15);
  EXPECT_EQ(h_.Row(name).failed_attempts, 0) << "5 new steps";
  const auto kept = h_.store().ListCheckpoints(h_.Row(name).uid, -1, 10);
  ASSERT_EQ(kept->size(), 2u);
  EXPECT_EQ(kept->at(0).step, 10);
  EXPECT_EQ(kept->at(1).step, 15) << "the damaged one is gone";
  h_.Pass(seconds(10));
  const auto third = h_.Sync(h_.Report("w"));
  ASSERT_EQ(third.start.size(), 1u);
  EXPECT_EQ(third.start[0].checkpoint_files, "files15");
  EXPECT_EQ(third.start[0].older_checkpoint_files, "files10");
  // And one that began anew, because neither could be read.
  AttemptReport anew = Harness::Attempt(third.start[0].lease, AttemptPhase::kEnded);
  anew.reason = TerminationReason::kHang;
  anew.items = {Harness::Checkpoint(1, 5)};
  SyncWith(std::move(anew));
  EXPECT_EQ(h_.Row(name).failed_attempts, 0);
  EXPECT_EQ(h_.store().ListCheckpoints(h_.Row(name).uid, -1, 10)->size(), 1u);
  EXPECT_TRUE(h_.scheduler().Find(name).has_value());
}

TEST_F(SchedulerTest, ANonFiniteLossIsNotTriedAgain) {
  const std::string name = h_.Submit("a");
  End(Run(name), TerminationReason::kNonFinite);
  EXPECT_EQ(h_.Stored(name).state, JobState::kFailed);
}

TEST_F(SchedulerTest, PauseResumeCancel) {
  const std::string name = h_.Submit("a");
  core::LeaseId lease = Run(name);
  ASSERT_TRUE(h_.scheduler().Pause(name, 0, h_.At(), nullptr).ok());
  h_.Commit();
  EXPECT_EQ(h_.State(name), JobState::kPausing);
  const auto told = SyncWith(Harness::Attempt(lease, AttemptPhase::kRunning));
  ASSERT_EQ(told.stop.size(), 1u);
  EXPECT_EQ(told.stop[0].reason, StopReason::kPause);
  EXPECT_EQ(told.renewed.size(), 1u) << "it must live on to write its checkpoint";
  End(lease, TerminationReason::kPausedByUser);
  EXPECT_EQ(h_.State(name), JobState::kPaused);
  EXPECT_EQ(h_.Row(name).recovery_count, 0) << "a pause is no loss";
  EXPECT_EQ(h_.scheduler().Snapshot(h_.At()).recoveries_total, 0);
  h_.Pass(std::chrono::hours(100));
  EXPECT_EQ(h_.State(name), JobState::kPaused);
  ASSERT_TRUE(h_.scheduler().Resume(name, 0, h_.At(), nullptr).ok());
  h_.Commit();
  lease = Run(name);
  EXPECT_EQ(lease.epoch, 2);
  ASSERT_TRUE(h_.scheduler().Cancel(name, 0, h_.At(), nullptr).ok());
  h_.Commit();
  EXPECT_EQ(h_.State(name), JobState::kCancelling);
  EXPECT_EQ(CommitAttempt(lease).reason(), "LEASE_FENCED");
  End(lease, TerminationReason::kSignal);
  EXPECT_EQ(h_.Stored(name).state, JobState::kCancelled);
  EXPECT_EQ(h_.Stored(name).reason, TerminationReason::kCancelledByUser);
}

TEST_F(SchedulerTest, CancelOfALeaseThatNeverLeftEndsAtOnce) {
  h_.Sync(h_.Report("w"));
  const std::string name = h_.Submit("a");
  ASSERT_EQ(h_.State(name), JobState::kStarting);
  ASSERT_TRUE(h_.scheduler().Cancel(name, 0, h_.At(), nullptr).ok());
  h_.Commit();
  EXPECT_EQ(h_.Stored(name).state, JobState::kCancelled);
  EXPECT_EQ(h_.scheduler().Snapshot(h_.At()).slots_used, 0);
}

TEST_F(SchedulerTest, AnEtagHoldsWhileTheStateDoesAndForThisJobOnly) {
  const std::string name = h_.Submit("a");
  const int64_t queued = h_.Row(name).ChangeTag();
  const core::LeaseId lease = Run(name);
  EXPECT_EQ(h_.scheduler().Cancel(name, queued, h_.At(), nullptr).status().reason(), "ETAG_MISMATCH");
  const int64_t running = h_.Row(name).ChangeTag();
  AttemptReport report = Harness::Attempt(lease, AttemptPhase::kRunning);
  report.items = {Harness::Checkpoint(1, 10), {.sequence = 2, .item = MetricItem{.step = 11, .payload = "m"}}};
  SyncWith(std::move(report));
  EXPECT_GT(h_.Row(name).version, h_.Row(name).generation);
  h_.Restart();
  EXPECT_TRUE(h_.scheduler().Pause(name, running, h_.At(), nullptr).ok()) << "metrics and checkpoints are no change of state";
  EXPECT_EQ(h_.scheduler().Pause(name, running, h_.At(), nullptr).status().reason(), "ETAG_MISMATCH");
  EXPECT_NE(ChangeTag("one", 1), ChangeTag("another", 1));
}

TEST_F(SchedulerTest, ARestartedAgentLosesItsLeasesAtOnce) {
  const std::string name = h_.Submit("a");
  const core::LeaseId old = Run(name);
  SyncRequest fresh = h_.Report("w");
  fresh.instance_uuid = "w-2";
  const auto again = h_.Sync(fresh);
  ASSERT_EQ(again.start.size(), 1u) << "the old gang is known to be gone: nothing to wait for";
  EXPECT_EQ(again.start[0].lease.epoch, 2);
  EXPECT_EQ(h_.Row(name).recovery_count, 1);
  EXPECT_EQ(CommitAttempt(old).reason(), "LEASE_FENCED");
  const Status ghost = h_.scheduler().Synchronize(h_.Report("w"), h_.At(), nullptr);
  EXPECT_EQ(ghost.reason(), "WORKER_REPLACED");
}

TEST_F(SchedulerTest, ALeaseMissingFromAReportIsLostButNotInALateCopy) {
  const std::string name = h_.Submit("a");
  const core::LeaseId lease = Run(name);
  SyncRequest late = h_.Report("w");
  late.acknowledged_sequence = 0;  // older than what was acknowledged since
  ASSERT_TRUE(h_.scheduler().Synchronize(late, h_.At(), nullptr).ok());
  EXPECT_EQ(h_.State(name), JobState::kRunning);
  h_.Sync(h_.Report("w"));
  EXPECT_EQ(h_.Row(name).recovery_count, 1);
  EXPECT_EQ(h_.Row(name).epoch, 2);
  EXPECT_EQ(CommitAttempt(lease).reason(), "LEASE_FENCED");
}

TEST_F(SchedulerTest, DrainMovesWorkWithoutCountingAnAttempt) {
  const std::string name = h_.Submit("a");
  const core::LeaseId lease = Run(name);
  ASSERT_TRUE(h_.scheduler().DrainWorker("w", h_.At(), nullptr).ok());
  h_.Commit();
  const auto told = SyncWith(Harness::Attempt(lease, AttemptPhase::kRunning));
  EXPECT_TRUE(told.drain);
  ASSERT_EQ(told.stop.size(), 1u);
  EXPECT_EQ(told.stop[0].reason, StopReason::kPreempt);
  const auto after = End(lease, TerminationReason::kPreempted);
  EXPECT_TRUE(after.start.empty()) << "a draining worker got work";
  EXPECT_EQ(h_.State(name), JobState::kQueued) << "no back-off after a drain";
  EXPECT_EQ(h_.Row(name).failed_attempts, 0);
  EXPECT_EQ(h_.Sync(h_.Report("v")).start.size(), 1u);
}

TEST_F(SchedulerTest, TimeLimits) {
  const std::string queued = h_.Submit("q", 1, 0, [](SubmitRequest& r) { r.max_queue_ms = 1000; });
  h_.Pass(milliseconds(999));
  EXPECT_EQ(h_.State(queued), JobState::kQueued);
  h_.Pass(milliseconds(1));
  EXPECT_EQ(h_.Stored(queued).reason, TerminationReason::kQueueTimeout);

  const std::string attempt = h_.Submit("t", 1, 0, [](SubmitRequest& r) { r.max_attempt_ms = 5000; });
  core::LeaseId lease = Run(attempt);
  h_.Pass(seconds(5));
  const auto told = SyncWith(Harness::Attempt(lease, AttemptPhase::kRunning));
  ASSERT_EQ(told.stop.size(), 1u);
  EXPECT_EQ(told.stop[0].reason, StopReason::kTimeout);
  End(lease, TerminationReason::kSignal);
  EXPECT_EQ(h_.Row(attempt).reason, TerminationReason::kAttemptTimeout);
  ASSERT_TRUE(h_.scheduler().Cancel(attempt, 0, h_.At(), nullptr).ok());

  const std::string total = h_.Submit("s", 1, 0, [](SubmitRequest& r) { r.max_total_ms = 20'000; });
  lease = Run(total);
  h_.Pass(seconds(20));
  EXPECT_EQ(h_.Stored(total).state, JobState::kFailed);
  EXPECT_EQ(h_.Stored(total).reason, TerminationReason::kTotalTimeout);
  EXPECT_EQ(h_.scheduler().Snapshot(h_.At()).slots_used, 1) << "the gang is not known to be gone";
  End(lease, TerminationReason::kSignal);
  EXPECT_EQ(h_.scheduler().Snapshot(h_.At()).slots_used, 0);
}

TEST_F(SchedulerTest, PriorityThenOrderAndNoStarvationOfGangs) {
  const std::string low = h_.Submit("low", 1, -1);
  const std::string first = h_.Submit("first");
  const std::string second = h_.Submit("second");
  const std::string high = h_.Submit("high", 1, 5);
  const auto granted = h_.Sync(h_.Report("w", 2));
  std::vector<std::string> names;
  for (const auto& start : granted.start) names.push_back(start.resource);
  EXPECT_THAT(names, ::testing::UnorderedElementsAre(high, first));
  // A gang of two waits for both slots; later, smaller work must not slip in between.
  const std::string gang = h_.Submit("gang", 2, 3);
  SyncRequest half = h_.Report("w", 2);
  half.attempts = {Harness::Attempt(granted.start[0].lease, AttemptPhase::kRunning),
                   Harness::Attempt(granted.start[1].lease, AttemptPhase::kEnded)};
  half.attempts[1].reason = TerminationReason::kNonFinite;
  EXPECT_TRUE(h_.Sync(half).start.empty());
  half.attempts = {Harness::Attempt(granted.start[0].lease, AttemptPhase::kEnded)};
  half.attempts[0].reason = TerminationReason::kNonFinite;
  const auto both = h_.Sync(half);
  ASSERT_EQ(both.start.size(), 1u);
  EXPECT_EQ(both.start[0].resource, gang);
  EXPECT_EQ(both.start[0].slots.size(), 2u);
}

TEST_F(SchedulerTest, AutoWaitsForAGpuAndCpuWorkDoesNotTakeIt) {
  SyncRequest gpu = h_.Report("g", 1);
  gpu.slots.push_back({.id = "gpu0", .device = DeviceKind::kCuda, .gpu_name = "H"});
  h_.Sync(gpu);
  h_.Submit("auto1");
  h_.Submit("auto2");
  h_.Submit("cpu", 1, 0, [](SubmitRequest& r) { r.device = DeviceKind::kCpu; });
  const auto granted = h_.Sync(gpu);
  ASSERT_EQ(granted.start.size(), 2u);
  std::map<std::string, std::string> slots;
  for (const auto& start : granted.start) slots[start.resource] = start.slots[0];
  EXPECT_EQ(slots["projects/default/fineTuningJobs/auto1"], "gpu0");
  EXPECT_EQ(slots["projects/default/fineTuningJobs/cpu"], "s0");
}

TEST_F(SchedulerTest, ARestartTreatsLeasesAsRenewedAndKeepsTheGang) {
  const std::string name = h_.Submit("a");
  const core::LeaseId lease = Run(name);
  h_.clock().Advance(seconds(59));
  h_.Restart();
  h_.Pass(seconds(59));
  EXPECT_EQ(h_.State(name), JobState::kRunning);
  EXPECT_EQ(SyncWith(Harness::Attempt(lease, AttemptPhase::kRunning)).renewed.size(), 1u);
  ASSERT_TRUE(CommitAttempt(lease).ok());
  EXPECT_EQ(h_.Stored(name).attempt, 1);
}

TEST_F(SchedulerTest, ReportItemsAreTakenOnceAcrossARestart) {
  const std::string name = h_.Submit("a");
  const core::LeaseId lease = Run(name);
  AttemptReport report = Harness::Attempt(lease, AttemptPhase::kRunning);
  report.items = {{.sequence = 1, .item = MetricItem{.step = 1, .payload = "one"}},
                  {.sequence = 2, .item = EventItem{.time_ms = 1, .level = 1, .type = "LOG", .message = "hello"}}};
  EXPECT_EQ(SyncWith(report).renewed[0].acknowledged_item, 2);
  const int64_t sequence = h_.Row(name).sequence;
  EXPECT_EQ(SyncWith(report).renewed[0].acknowledged_item, 2);
  h_.Restart();
  EXPECT_EQ(SyncWith(report).renewed[0].acknowledged_item, 2);
  EXPECT_EQ(h_.Row(name).sequence, sequence) << "a repeated item was taken again";
  EXPECT_EQ(h_.store().ListMetrics(h_.Row(name).uid, -1, 10)->size(), 1u);
}

TEST_F(SchedulerTest, WallClockJumpsChangeNothing) {
  const std::string name = h_.Submit("a");
  Run(name);
  for (int i = 0; i < 20; ++i) {
    h_.clock().JumpWall(std::chrono::minutes(i % 2 == 0 ? 10 : -10));
    h_.Pass(milliseconds(100));
  }
  EXPECT_EQ(h_.State(name), JobState::kRunning);
}

TEST_F(SchedulerTest, AnothersLeaseIsNotRenewed) {
  h_.Submit("j");
  const auto granted = h_.Sync(h_.Report("w"));
  ASSERT_EQ(granted.start.size(), 1u);
  SyncRequest foreign = h_.Report("v");
  foreign.attempts = {Harness::Attempt(granted.start[0].lease, AttemptPhase::kRunning)};
  const auto told = h_.Sync(foreign);
  EXPECT_TRUE(told.renewed.empty());
  ASSERT_EQ(told.stop.size(), 1u);
  EXPECT_EQ(told.stop[0].reason, StopReason::kFenced);
}

TEST(SchedulerConfig, TimingMustBeOrdered) {
  SchedulerConfig config;
  EXPECT_TRUE(config.Check().ok());
  config.timing.self_fence = config.timing.lease / 2;
  EXPECT_TRUE(config.Check().ok());
  config.timing.self_fence += milliseconds(1);
  EXPECT_EQ(config.Check().reason(), "BAD_TIMING") << "no margin for clocks of different rates";
}

}  // namespace
}  // namespace sbora::server
