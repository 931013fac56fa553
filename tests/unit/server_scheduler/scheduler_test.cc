#include "server/scheduler/scheduler.h"

#include <gmock/gmock.h>

#include "tests/unit/server_scheduler/scheduler_fixture.h"

namespace sbora::server {
namespace {

using core::JobState;
using core::TerminationReason;
using std::chrono::milliseconds;
using std::chrono::seconds;

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

TEST_F(SchedulerTest, WorkThatIsNotInMemoryIsNamed) {
  const std::string name = h_.Submit("a");
  const core::LeaseId lease = Run(name);
  ASSERT_TRUE(CommitAttempt(lease).ok());
  for (const std::string& gone : {name, std::string("projects/default/fineTuningJobs/nobody")}) {
    const Status status = h_.scheduler().Cancel(gone, 0, h_.At(), [](const Status&) {}).status();
    EXPECT_EQ(status.code(), StatusCode::kNotFound) << status;
    EXPECT_EQ(status.reason(), "WORK_NOT_ACTIVE") << status;
    EXPECT_THAT(status.message(), ::testing::HasSubstr(gone));
  }
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
  h_.scheduler().Drop(Unavailable("NOT_SERVING", "the disk is full"));
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
  for (int i = 0; i < 100 && h_.State(name) != JobState::kRecovering; ++i) {
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
  gpu.slots.push_back({.id = "gpu0", .device = DeviceKind::kCuda});
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

TEST_F(SchedulerTest, WorkThatNoWorkerCouldTakeIsToldOnce) {
  const auto told = [this](const std::string& name) {
    std::vector<std::string> messages;
    const auto events = h_.store().ListEvents(h_.Stored(name).uid, 0, 100);
    for (const EventRow& event : *events) {
      if (event.type == "NO_WORKER") messages.push_back(event.message);
    }
    return messages;
  };
  const std::string gpu = h_.Submit("gpu", 1, 0, [](SubmitRequest& r) { r.device = DeviceKind::kCuda; });
  const std::string gang = h_.Submit("gang", 3);
  const std::string busy = h_.Submit("busy");
  const SyncRequest worker = h_.Report("w", 1);
  h_.Sync(worker);
  h_.Pass(milliseconds(9999));
  EXPECT_THAT(told(gpu), ::testing::IsEmpty()) << "workers may still join";
  for (int i = 0; i < 5; ++i) {
    h_.Pass(seconds(4));
    h_.Sync(worker);
  }
  EXPECT_THAT(told(gpu), ::testing::ElementsAre(::testing::HasSubstr("waits for a worker with 1 CUDA slot(s); 1 ready worker(s) are "
                                                                     "connected, the largest with 1 CPU and 0 CUDA slots")));
  EXPECT_THAT(told(gang), ::testing::ElementsAre(::testing::HasSubstr("3 CPU or CUDA slot(s)")));
  EXPECT_THAT(told(busy), ::testing::IsEmpty());
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
