// Attempts that end early: when work is given away again, what counts, what a checkpoint changes, what is held.
#include "server/scheduler/scheduler.h"

#include <gmock/gmock.h>

#include "tests/unit/server_scheduler/scheduler_fixture.h"

namespace sbora::server {
namespace {

using core::JobState;
using core::TerminationReason;
using std::chrono::milliseconds;
using std::chrono::seconds;

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

TEST_F(SchedulerTest, AFullDiskHoldsTheJobAtItsCheckpointUntilItIsResumed) {
  const std::string name = h_.Submit("a");
  const core::LeaseId lease = Run(name);
  AttemptReport report = Harness::Attempt(lease, AttemptPhase::kEnded);
  report.reason = TerminationReason::kNoSpace;
  report.failure = {.code = 8, .reason = "NO_SPACE", .message = "the disk is full"};
  report.items = {Harness::Checkpoint(1, 50)};
  SyncWith(std::move(report));
  const WorkRow held = h_.Stored(name);
  EXPECT_EQ(held.state, JobState::kPaused);
  EXPECT_EQ(held.reason, TerminationReason::kNoSpace);
  EXPECT_EQ(held.failure.message, "the disk is full");
  EXPECT_EQ(held.failed_attempts, 0);
  h_.Pass(std::chrono::hours(100));
  EXPECT_TRUE(h_.Sync(h_.Report("w")).start.empty()) << "nothing runs before a person says so";
  ASSERT_TRUE(h_.scheduler().Resume(name, 0, h_.At(), nullptr).ok());
  h_.Commit();
  const auto next = h_.Sync(h_.Report("w"));
  ASSERT_EQ(next.start.size(), 1u);
  EXPECT_EQ(next.start[0].checkpoint_step, 50);
}

TEST_F(SchedulerTest, AFullDiskEndsWhatCannotBePausedAfterThreeAttempts) {
  const std::string name = h_.Submit("e", 1, 0, [](SubmitRequest& request) { request.kind = WorkKind::kEvaluate; });
  for (int attempt = 0; attempt < 3; ++attempt) {
    End(Run(name), TerminationReason::kNoSpace);
    h_.Pass(std::chrono::minutes(10));
  }
  EXPECT_EQ(h_.Stored(name).state, JobState::kFailed);
  EXPECT_EQ(h_.Stored(name).reason, TerminationReason::kNoSpace);
}

}  // namespace
}  // namespace sbora::server
