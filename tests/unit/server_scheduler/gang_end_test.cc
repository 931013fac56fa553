// Gangs over several workers: how they end as one, and what it means for the job.
#include <gmock/gmock.h>

#include "tests/unit/server_scheduler/gang_fixture.h"

namespace sbora::server {
namespace {

using core::JobState;
using core::TerminationReason;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

class GangEndTest : public GangTest {
 protected:
  void SetUp() override {
    Join("a", 2);
    Join("b", 2);
  }
  /// A gang of four, two ranks each on a, which leads, and b; running.
  std::string Run(const std::function<void(SubmitRequest&)>& change = {}) {
    const std::string work = h_.Submit("gang", 4, 0, change);
    Take(work, {"a", "b"});
    RunGang(work, {"a", "b"});
    return work;
  }
  /// A checkpoint of `step`, reported by the part with rank 0.
  void Checkpoint(const std::string& work, int64_t step) {
    Held("a", work).items = {Harness::Checkpoint(++items_, step)};
    Call("a");
  }

  int64_t items_ = 0;
};

TEST_F(GangEndTest, APartsEndStopsTheOthersAndTheLastOneEndsTheAttempt) {
  const std::string work = Run();
  EndPart("b", work, TerminationReason::kOomHost, "OOM", "rank 2 was killed");
  EXPECT_EQ(h_.State(work), JobState::kRunning) << "its other ranks are not known to be gone";
  EXPECT_EQ(AttemptsEnded(), 0);
  EXPECT_EQ(Leases(), 1);
  EXPECT_EQ(ToldToStop("a"), StopReason::kGangEnded);
  EndPart("a", work, TerminationReason::kSignal, "GANG_ENDED");
  EXPECT_EQ(h_.State(work), JobState::kRecovering);
  EXPECT_EQ(h_.Row(work).reason, TerminationReason::kOomHost);
  EXPECT_EQ(h_.Row(work).failure.message, "rank 2 was killed");
  EXPECT_EQ(h_.Row(work).failed_attempts, 1);
  EXPECT_EQ(Ended(TerminationReason::kOomHost), 1);
  EXPECT_EQ(AttemptsEnded(), 1) << "two leases, one attempt";
  h_.Pass(seconds(10));
  Take(work, {"a", "b"});
  EXPECT_EQ(Started("a", work).attempt, 2);
  EXPECT_EQ(Started("b", work).lease.epoch, 2);
  EXPECT_EQ(h_.scheduler().Snapshot(h_.At()).granted_total, 2);
}

TEST_F(GangEndTest, APartsOwnFailureTellsMoreThanWhatOthersSawOfIt) {
  struct Case {
    const char* title;
    const char* first;  // who ends first
    const char* first_why;
    const char* second_why;
    const char* kept;
  };
  const Case cases[] = {
      {"the cause first", "b", "OOM", "RANK_LOST", "OOM"},
      {"the cause last", "a", "RANK_LOST", "OOM", "OOM"},
      {"told before seen", "b", "GANG_ENDED", "RANK_LOST", "RANK_LOST"},
      {"seen before told", "a", "RANK_LOST", "GANG_ENDED", "RANK_LOST"},
      {"the first of two causes", "b", "HANG", "OOM", "HANG"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.title);
    const std::string work = h_.Submit(fmt::format("gang{}", &c - cases), 4);
    Take(work, {"a", "b"});
    RunGang(work, {"a", "b"});
    const std::string second = std::string(c.first) == "a" ? "b" : "a";
    EndPart(c.first, work, TerminationReason::kTrainerError, c.first_why);
    EndPart(second, work, TerminationReason::kTrainerError, c.second_why);
    EXPECT_EQ(h_.Row(work).failure.reason, c.kept);
    ASSERT_TRUE(h_.scheduler().Cancel(work, 0, h_.At(), nullptr).ok());
  }
}

TEST_F(GangEndTest, AFailureThatNoRetryMendsEndsTheJobWhenTheLastPartIsOver) {
  const std::string work = Run();
  EndPart("b", work, TerminationReason::kNonFinite, "NON_FINITE", "the loss is nan");
  EXPECT_EQ(h_.State(work), JobState::kRunning);
  h_.Restart();
  EndPart("a", work, TerminationReason::kSignal, "GANG_ENDED");
  EXPECT_EQ(h_.Stored(work).state, JobState::kFailed) << "a restart forgot why the gang ended";
  EXPECT_EQ(h_.Stored(work).reason, TerminationReason::kNonFinite);
  EXPECT_EQ(h_.Stored(work).failure.message, "the loss is nan");
}

TEST_F(GangEndTest, APartWhoseLeaseRunsOutIsALostWorkerWhateverTheOthersSaw) {
  const std::string work = Run();
  h_.Pass(seconds(5));
  EndPart("a", work, TerminationReason::kTrainerError, "RANK_LOST");
  h_.Pass(milliseconds(54'999));
  EXPECT_EQ(h_.State(work), JobState::kRunning) << "b may still live";
  h_.Pass(milliseconds(1));
  EXPECT_EQ(h_.State(work), JobState::kRecovering);
  EXPECT_EQ(h_.Row(work).reason, TerminationReason::kWorkerLost);
  EXPECT_EQ(h_.Row(work).failure.reason, "LEASE_EXPIRED");
  EXPECT_EQ(h_.Row(work).failed_attempts, 0) << "not the job's fault";
  EXPECT_EQ(h_.Row(work).recovery_count, 1);
  Join("c", 2);
  h_.Pass(milliseconds(4'999));
  EXPECT_EQ(h_.State(work), JobState::kRecovering) << "before the re-dispatch time";
  h_.Pass(milliseconds(1));
  Call("a");
  h_.Pass(milliseconds(0));
  EXPECT_EQ(h_.State(work), JobState::kStarting);
  EXPECT_NE(h_.Row(work).worker, "b") << "b is lost";
}

TEST_F(GangEndTest, TheReDispatchTimeIsThatOfTheLatestPart) {
  const std::string work = Run();
  Join("c", 2);
  h_.Pass(seconds(30));
  Call("a");  // only b is silent
  h_.Pass(seconds(30));
  EXPECT_EQ(ToldToStop("a"), StopReason::kGangEnded);
  EndPart("a", work, TerminationReason::kSignal, "GANG_ENDED");
  Call("c");
  EXPECT_EQ(h_.State(work), JobState::kRecovering) << "b's ranks may live for five more seconds";
  h_.Pass(milliseconds(4'999));
  EXPECT_EQ(h_.State(work), JobState::kRecovering);
  h_.Pass(milliseconds(1));
  Take(work, {"a", "c"});
}

TEST_F(GangEndTest, ARestartOfTheServerKeepsTheReDispatchTime) {
  const std::string work = Run();
  Join("c", 2);
  h_.Pass(seconds(30));
  Call("a");
  h_.Pass(seconds(30));  // b's lease is over
  h_.Restart();
  Call("a");
  Call("c");
  EndPart("a", work, TerminationReason::kSignal, "GANG_ENDED");
  EXPECT_EQ(h_.State(work), JobState::kRecovering);
  EXPECT_EQ(h_.Row(work).reason, TerminationReason::kWorkerLost);
  h_.Pass(milliseconds(4'999));
  EXPECT_EQ(h_.State(work), JobState::kRecovering);
  h_.Pass(milliseconds(1));
  EXPECT_NE(h_.State(work), JobState::kRecovering);
}

TEST_F(GangEndTest, ARestartOfAPartsWorkerEndsTheGang) {
  const std::string work = Run();
  Restart("b");
  EXPECT_EQ(ToldToStop("a"), StopReason::kGangEnded);
  EndPart("a", work, TerminationReason::kTrainerError, "RANK_LOST");
  EXPECT_EQ(h_.Row(work).failure.reason, "WORKER_RESTARTED");
  EXPECT_EQ(h_.Row(work).failed_attempts, 0);
  Take(work, {"a", "b"});
  EXPECT_EQ(Started("a", work).lease.epoch, 2) << "all is known to be gone: nothing to wait for";
}

TEST_F(GangEndTest, APartThatIsMissingFromAReportEndsTheGang) {
  const std::string work = Run();
  agents_["b"].holds.clear();
  Call("b");
  EXPECT_EQ(ToldToStop("a"), StopReason::kGangEnded);
  EndPart("a", work, TerminationReason::kSignal, "GANG_ENDED");
  EXPECT_EQ(h_.Row(work).failure.reason, "ATTEMPT_LOST");
}

TEST_F(GangEndTest, APartThatIsMissingAfterItWasToldToEndTellsNothing) {
  const std::string work = Run();
  EndPart("a", work, TerminationReason::kTrainerError, "RANK_LOST", "rank 2 is gone");
  EXPECT_EQ(ToldToStop("b"), StopReason::kGangEnded);
  agents_["b"].holds.clear();
  Call("b");
  EXPECT_EQ(h_.State(work), JobState::kRecovering);
  EXPECT_EQ(h_.Row(work).failure.message, "rank 2 is gone");
}

TEST_F(GangEndTest, APartThatNeverLeftEndsWithTheOthersAndTellsNothing) {
  const std::string work = h_.Submit("gang", 4);
  Call("a");  // b has not called yet
  EndPart("a", work, TerminationReason::kTrainerError, "RANK_LOST", "nobody came");
  EXPECT_EQ(h_.State(work), JobState::kRecovering);
  EXPECT_EQ(h_.Row(work).failure.message, "nobody came");
  EXPECT_EQ(AttemptsEnded(), 1);
  EXPECT_EQ(Leases(), 0);
  Call("b");
  EXPECT_TRUE(agents_["b"].holds.empty());
}

TEST_F(GangEndTest, APauseStopsAllAndKeepsTheCheckpointOfRankZero) {
  const std::string work = Run();
  ASSERT_TRUE(h_.scheduler().Pause(work, 0, h_.At(), nullptr).ok());
  h_.Commit();
  EXPECT_EQ(ToldToStop("a"), StopReason::kPause);
  EXPECT_EQ(ToldToStop("b"), StopReason::kPause);
  EndPart("b", work, TerminationReason::kPausedByUser);
  EXPECT_EQ(ToldToStop("a"), StopReason::kPause) << "rank 0 was killed over its checkpoint";
  EXPECT_EQ(h_.State(work), JobState::kPausing);
  Checkpoint(work, 70);
  EndPart("a", work, TerminationReason::kPausedByUser);
  EXPECT_EQ(h_.State(work), JobState::kPaused);
  EXPECT_EQ(h_.Row(work).reason, TerminationReason::kPausedByUser);
  EXPECT_EQ(h_.Row(work).recovery_count, 0);
  ASSERT_TRUE(h_.scheduler().Resume(work, 0, h_.At(), nullptr).ok());
  h_.Commit();
  Take(work, {"a", "b"});
  EXPECT_EQ(Started("a", work).checkpoint_step, 70);
  EXPECT_EQ(Started("b", work).checkpoint_files, "files70") << "every rank begins from the checkpoint";
}

TEST_F(GangEndTest, APauseBeforeAnyPartHasLeftIsOverAtOnce) {
  const std::string work = h_.Submit("gang", 4);
  ASSERT_EQ(h_.State(work), JobState::kStarting);
  ASSERT_TRUE(h_.scheduler().Pause(work, 0, h_.At(), nullptr).ok());
  h_.Commit();
  EXPECT_EQ(h_.Stored(work).state, JobState::kPaused);
  EXPECT_EQ(Leases(), 0);
  EXPECT_EQ(AttemptsEnded(), 1);
}

TEST_F(GangEndTest, ADrainOfAPartsWorkerMovesTheGangWithItsCheckpoint) {
  const std::string work = Run();
  Join("c", 2);
  ASSERT_TRUE(h_.scheduler().DrainWorker("b", h_.At(), nullptr).ok());
  h_.Commit();
  EXPECT_EQ(ToldToStop("b"), StopReason::kPreempt);
  EXPECT_EQ(ToldToStop("a"), StopReason::kPreempt) << "asked to stop the same way, not killed";
  EndPart("b", work, TerminationReason::kPreempted);
  EXPECT_EQ(ToldToStop("a"), StopReason::kPreempt);
  Checkpoint(work, 30);
  EndPart("a", work, TerminationReason::kPreempted);
  Take(work, {"a", "c"});
  EXPECT_EQ(Started("a", work).checkpoint_step, 30);
  EXPECT_EQ(h_.Row(work).failed_attempts, 0);
  EXPECT_EQ(Ended(TerminationReason::kPreempted), 1);
}

TEST_F(GangEndTest, APartThatStopsUnaskedAsksTheOthersToStopTheSameWay) {
  for (const auto& [reason, stop] : {std::pair(TerminationReason::kPreempted, StopReason::kPreempt),
                                     std::pair(TerminationReason::kPausedByUser, StopReason::kPause)}) {
    const std::string work = h_.Submit(std::string(core::TerminationReasonName(reason)), 4);
    Take(work, {"a", "b"});
    RunGang(work, {"a", "b"});
    EndPart("b", work, reason);
    EXPECT_EQ(ToldToStop("a"), stop);
    EndPart("a", work, TerminationReason::kTrainerError, "RANK_LOST");
    EXPECT_EQ(h_.Row(work).reason, reason) << "that the others were gone is no failure";
    EXPECT_EQ(h_.Row(work).failed_attempts, 0);
    ASSERT_TRUE(h_.scheduler().Cancel(work, 0, h_.At(), nullptr).ok());
    for (const char* name : {"a", "b"}) agents_[name].holds.clear();
    CallAll();
  }
}

TEST_F(GangEndTest, APartThatIsDoneLeavesTheResultToRankZero) {
  const std::string work = Run();
  EndPart("b", work, TerminationReason::kDone);
  EXPECT_EQ(ToldToStop("a"), StopReason::kNone);
  EXPECT_EQ(h_.State(work), JobState::kRunning);
  EXPECT_EQ(h_.scheduler().Snapshot(h_.At()).slots_used, 2) << "what is done holds no slots";
  EXPECT_EQ(AttemptsEnded(), 0);
  ASSERT_TRUE(CommitBy("a", work).ok());
  EXPECT_EQ(h_.Stored(work).state, JobState::kSucceeded);
  EXPECT_EQ(h_.Stored(work).result, "result");
  EXPECT_EQ(AttemptsEnded(), 1);
  EXPECT_FALSE(h_.scheduler().Find(work).has_value());
}

TEST_F(GangEndTest, RankZeroMayStillFailWhenTheOthersAreDone) {
  const std::string work = Run();
  EndPart("b", work, TerminationReason::kDone);
  EndPart("a", work, TerminationReason::kTrainerError, "UPLOAD", "the upload failed");
  EXPECT_EQ(h_.State(work), JobState::kRecovering);
  EXPECT_EQ(h_.Row(work).failure.message, "the upload failed");
  EXPECT_EQ(AttemptsEnded(), 1);
}

TEST_F(GangEndTest, ACommitEndsWhatIsLeftOfTheGang) {
  for (const bool done : {true, false}) {
    const std::string work = h_.Submit(done ? "reports" : "forgets", 4);
    Take(work, {"a", "b"});
    RunGang(work, {"a", "b"});
    ASSERT_TRUE(CommitBy("a", work).ok());
    EXPECT_EQ(h_.Stored(work).state, JobState::kSucceeded);
    EXPECT_EQ(Leases(), 1) << "b's ranks are not known to be gone";
    EXPECT_TRUE(CommitBy("a", work).ok()) << "a repeat of the accepted commit is OK";
    EXPECT_EQ(ToldToStop("b"), StopReason::kGangEnded);
    if (done) {
      EndPart("b", work, TerminationReason::kDone);
    } else {
      agents_["b"].holds.clear();
      Call("b");
    }
    EXPECT_EQ(Leases(), 0);
    EXPECT_EQ(h_.Stored(work).state, JobState::kSucceeded);
    EXPECT_EQ(h_.Stored(work).reason, TerminationReason::kDone);
    EXPECT_FALSE(h_.scheduler().Find(work).has_value()) << "ended work stays in memory";
  }
  EXPECT_EQ(AttemptsEnded(), 2);
  EXPECT_EQ(Ended(TerminationReason::kDone), 2);
}

TEST_F(GangEndTest, ACommitOutlivesARestartBeforeTheOthersHaveEnded) {
  const std::string work = Run();
  ASSERT_TRUE(CommitBy("a", work).ok());
  h_.Restart();
  EXPECT_EQ(ToldToStop("b"), StopReason::kGangEnded);
  EndPart("b", work, TerminationReason::kSignal, "GANG_ENDED");
  EXPECT_EQ(h_.Stored(work).state, JobState::kSucceeded);
  EXPECT_EQ(Leases(), 0);
}

TEST_F(GangEndTest, OnlyThePartWithRankZeroCommits) {
  const std::string work = Run();
  const Status check = h_.scheduler().CheckLease(Started("b", work).lease, h_.At()).status();
  EXPECT_EQ(check.code(), StatusCode::kFailedPrecondition) << check;
  EXPECT_EQ(check.reason(), "LEASE_FENCED") << check;
  EXPECT_THAT(check.message(), HasSubstr("its ranks begin at 2, and the part of the gang with rank 0 commits"));
  EXPECT_EQ(CommitBy("b", work).message(), check.message());
  EXPECT_EQ(h_.scheduler().Snapshot(h_.At()).fenced_total, 2);
  EXPECT_EQ(h_.State(work), JobState::kRunning);
  EXPECT_TRUE(h_.scheduler().CheckLease(Started("a", work).lease, h_.At()).ok());
}

TEST_F(GangEndTest, ACancelStopsAllAndWaitsForAll) {
  const std::string work = Run();
  ASSERT_TRUE(h_.scheduler().Cancel(work, 0, h_.At(), nullptr).ok());
  h_.Commit();
  EXPECT_EQ(ToldToStop("a"), StopReason::kCancel);
  EXPECT_EQ(ToldToStop("b"), StopReason::kCancel);
  EndPart("a", work, TerminationReason::kSignal);
  EXPECT_EQ(h_.State(work), JobState::kCancelling);
  EXPECT_EQ(ToldToStop("b"), StopReason::kCancel);
  EndPart("b", work, TerminationReason::kSignal);
  EXPECT_EQ(h_.Stored(work).state, JobState::kCancelled);
  EXPECT_EQ(h_.Stored(work).reason, TerminationReason::kCancelledByUser);
}

TEST_F(GangEndTest, ACancelWithOnePartThatNeverLeft) {
  const std::string work = h_.Submit("gang", 4);
  Call("b");
  ASSERT_TRUE(h_.scheduler().Cancel(work, 0, h_.At(), nullptr).ok());
  h_.Commit();
  EXPECT_EQ(h_.State(work), JobState::kCancelling);
  EXPECT_EQ(Leases(), 1);
  EXPECT_EQ(ToldToStop("b"), StopReason::kCancel);
  EndPart("b", work, TerminationReason::kSignal);
  EXPECT_EQ(h_.Stored(work).state, JobState::kCancelled);
}

TEST_F(GangEndTest, TimeLimitsAreTheGangs) {
  const std::string total = Run([](SubmitRequest& request) { request.max_total_ms = 20'000; });
  h_.Pass(seconds(20));
  EXPECT_EQ(h_.Stored(total).reason, TerminationReason::kTotalTimeout);
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(ToldToStop(name), StopReason::kTimeout) << name;
    EndPart(name, total, TerminationReason::kSignal);
  }
  EXPECT_EQ(Leases(), 0);
  EXPECT_EQ(AttemptsEnded(), 1);
  EXPECT_EQ(h_.Stored(total).reason, TerminationReason::kTotalTimeout);

  const std::string attempt = h_.Submit("attempt", 4, 0, [](SubmitRequest& request) { request.max_attempt_ms = 5000; });
  Take(attempt, {"a", "b"});
  RunGang(attempt, {"a", "b"});
  h_.Pass(seconds(5));
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(ToldToStop(name), StopReason::kTimeout) << name;
    EndPart(name, attempt, TerminationReason::kSignal);
  }
  EXPECT_EQ(h_.Row(attempt).reason, TerminationReason::kAttemptTimeout);
  EXPECT_EQ(h_.Row(attempt).failed_attempts, 1);
}

TEST_F(GangEndTest, ARetryGoesOnFromTheCheckpointAndCountsByWhatRankZeroKept) {
  const std::string work = Run();
  Checkpoint(work, 10);
  Checkpoint(work, 20);
  // The part with rank 0 is over first: what it kept is progress all the same.
  EndPart("a", work, TerminationReason::kHang, "HANG");
  EndPart("b", work, TerminationReason::kSignal, "GANG_ENDED");
  EXPECT_EQ(h_.Row(work).failed_attempts, 0);
  h_.Pass(seconds(10));
  Take(work, {"a", "b"});
  EXPECT_EQ(Started("b", work).checkpoint_step, 20);
  EXPECT_EQ(Started("b", work).older_checkpoint_files, "files10");
  RunGang(work, {"a", "b"});
  EndPart("b", work, TerminationReason::kHang, "HANG");
  EndPart("a", work, TerminationReason::kSignal, "GANG_ENDED");
  EXPECT_EQ(h_.Row(work).failed_attempts, 1) << "no new checkpoint";
  h_.Pass(seconds(20));
  Take(work, {"a", "b"});
  RunGang(work, {"a", "b"});
  // The checkpoint of step 20 turned out damaged: it went on from 10, and ended with 15 kept, before the server was killed.
  items_ = 0;
  Checkpoint(work, 15);
  EndPart("a", work, TerminationReason::kHang, "HANG");
  h_.Restart();
  EndPart("b", work, TerminationReason::kSignal, "GANG_ENDED");
  EXPECT_EQ(h_.Row(work).checkpoint_step, 15);
  EXPECT_EQ(h_.Row(work).failed_attempts, 0) << "5 new steps";
  EXPECT_EQ(h_.Row(work).reason, TerminationReason::kHang);
}

}  // namespace
}  // namespace sbora::server
