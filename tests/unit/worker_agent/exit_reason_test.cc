#include "worker/agent/exit_reason.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "common/file.h"

namespace sbora::agent {
namespace {

using ::testing::HasSubstr;

RankExit Code(int rank, int code, bool after_kill = false) {
  return {.rank = rank, .exit = {.signaled = false, .value = code}, .after_kill = after_kill};
}
RankExit Signal(int rank, int signal, bool after_kill = false) {
  return {.rank = rank, .exit = {.signaled = true, .value = signal}, .after_kill = after_kill};
}
v1::TerminationReason Reason(const GangOutcome& outcome) { return Judge(outcome, "").reason; }

TEST(JudgeTest, DoneNeedsResultAndGoodExit) {
  GangOutcome outcome;
  outcome.exits = {Code(0, 0), Code(1, 0)};
  EXPECT_EQ(Judge(outcome, "").failure.reason(), "NO_RESULT");
  outcome.result.emplace();
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_DONE);
  outcome.exits = {Code(1, 0), Signal(0, SIGSEGV)};
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_SIGNAL);
}

TEST(JudgeTest, APartWithoutRankZeroIsDoneWhenAllItsRanksAre) {
  GangOutcome outcome;
  outcome.first_rank = 2;
  outcome.exits = {Code(2, 0), Code(3, 0)};
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_DONE);
  outcome.exits = {Code(2, 0), Code(3, 3)};
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_PREEMPTED);
  outcome.exits = {Code(2, 0), Signal(3, SIGSEGV)};
  EXPECT_THAT(Judge(outcome, "").failure.message(), HasSubstr("rank 3 ended by signal 11"));
}

TEST(JudgeTest, ErrorOfTheTrainerWinsOverExitAndHang) {
  GangOutcome outcome;
  outcome.exits = {Code(0, 1)};
  outcome.error.emplace();
  outcome.error->set_reason(v1::TERMINATION_REASON_OOM_GPU);
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_OOM_GPU);
  outcome.cause = KillCause::kHang;
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_OOM_GPU);
  outcome.error->clear_reason();
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_TRAINER_ERROR);
}

TEST(JudgeTest, AStoppedTaskWithoutACheckpointEndsAsOrdered) {
  GangOutcome outcome;
  outcome.exits = {Code(0, 3)};
  outcome.error.emplace();
  outcome.error->set_reason(v1::TERMINATION_REASON_PREEMPTED);
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_PREEMPTED);
  outcome.stop_sent = true;
  outcome.order = StopOrder::kPause;
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_PAUSED_BY_USER);
  outcome.error->set_reason(v1::TERMINATION_REASON_NO_SPACE);
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_NO_SPACE);
}

TEST(JudgeTest, FirstRankThatDiedIsNamedNotThoseWeKilled) {
  GangOutcome outcome;
  outcome.cause = KillCause::kRankDied;
  outcome.exits = {Signal(2, SIGBUS), Signal(0, SIGKILL, true), Signal(1, SIGKILL, true)};
  EXPECT_EQ(FailingRank(outcome), 2);
  EXPECT_THAT(Judge(outcome, "what(): x").failure.message(), HasSubstr("rank 2 ended by signal 7 (SIGBUS)"));
}

TEST(JudgeTest, ALostRankIsAConsequenceOfHowTheOtherEnded) {
  GangOutcome outcome;
  outcome.cause = KillCause::kRankDied;
  outcome.error.emplace();
  outcome.error->set_reason(v1::TERMINATION_REASON_TRAINER_ERROR);
  outcome.error->mutable_failure()->set_reason("RANK_LOST");
  outcome.exits = {Code(0, 1), Signal(1, SIGKILL)};
  EXPECT_EQ(FailingRank(outcome), 1);
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_SIGNAL);
  outcome.oom_kills = 1;
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_OOM_HOST);
  outcome.exits = {Code(1, 5), Code(0, 1)};
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_WORKER_LOST);
  // Nothing but the ranks' own words: all of them errors that they told, or ends that we made.
  outcome.exits = {Code(0, 1), Signal(1, SIGKILL, true)};
  EXPECT_EQ(FailingRank(outcome), -1);
  EXPECT_EQ(Judge(outcome, "").failure.reason(), "RANK_LOST");
}

TEST(JudgeTest, OutOfMemoryNeedsTheKernelsCount) {
  GangOutcome outcome;
  outcome.exits = {Signal(0, SIGKILL)};
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_SIGNAL);
  outcome.oom_kills = 1;
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_OOM_HOST);
  outcome.exits = {Signal(0, SIGSEGV)};
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_SIGNAL);
}

TEST(JudgeTest, OutOfMemoryIsToldBesideTheEstimate) {
  GangOutcome outcome;
  outcome.exits = {Signal(0, SIGKILL)};
  outcome.oom_kills = 1;
  const Verdict out = Judge(outcome, "");
  EXPECT_EQ(WithEstimate(out, 0).failure.message(), out.failure.message());
  EXPECT_THAT(WithEstimate(out, int64_t{3} << 29).failure.message(),
              HasSubstr("lower micro_batch_size or cutoff_tokens (estimated for a rank with full micro-batches: 1.50 GiB)"));
  outcome.oom_kills = 0;
  const Verdict killed = Judge(outcome, "");
  EXPECT_EQ(WithEstimate(killed, int64_t{3} << 29).failure.message(), killed.failure.message());
}

TEST(JudgeTest, OrdersNameTheEnd) {
  GangOutcome outcome;
  outcome.exits = {Signal(0, SIGKILL, true)};
  outcome.cause = KillCause::kOrder;
  outcome.order = StopOrder::kCancel;
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_CANCELLED_BY_USER);
  outcome.order = StopOrder::kTimeout;
  const Verdict timeout = Judge(outcome, "");
  EXPECT_EQ(timeout.reason, v1::TERMINATION_REASON_ATTEMPT_TIMEOUT);
  EXPECT_EQ(timeout.failure.reason(), "ATTEMPT_TIMEOUT");
  EXPECT_THAT(timeout.failure.message(), HasSubstr("raise max_attempt_seconds"));
  outcome.order = StopOrder::kGangEnded;
  const Verdict gang = Judge(outcome, "");
  EXPECT_EQ(gang.reason, v1::TERMINATION_REASON_WORKER_LOST);
  EXPECT_EQ(gang.failure.reason(), "GANG_ENDED");
  outcome.order = StopOrder::kPreempt;
  const Verdict preempted = Judge(outcome, "");
  EXPECT_EQ(preempted.reason, v1::TERMINATION_REASON_PREEMPTED);
  EXPECT_EQ(preempted.failure.reason(), "PREEMPTED");
  outcome.cause = KillCause::kCheckpointGrace;
  outcome.stop_sent = true;
  outcome.order = StopOrder::kPause;
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_PAUSED_BY_USER);
}

TEST(JudgeTest, AHangNamesTheLimitThatWasPassed) {
  GangOutcome outcome;
  outcome.exits = {Signal(0, SIGKILL, true)};
  outcome.cause = KillCause::kHang;
  outcome.hang_limit_seconds = 120;
  const Verdict verdict = Judge(outcome, "");
  EXPECT_EQ(verdict.reason, v1::TERMINATION_REASON_HANG);
  EXPECT_EQ(verdict.failure.code(), static_cast<int>(StatusCode::kDeadlineExceeded));
  EXPECT_EQ(verdict.failure.reason(), "HANG");
  EXPECT_THAT(verdict.failure.message(), HasSubstr("no progress for 120.0 s"));
}

TEST(JudgeTest, TaskThatEndedBeforeItSawThePauseIsDone) {
  GangOutcome outcome;
  outcome.exits = {Code(0, 0)};
  outcome.result.emplace();
  outcome.stop_sent = true;
  outcome.order = StopOrder::kPause;
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_DONE);
}

TEST(JudgeTest, CrashDuringAPauseIsACrash) {
  GangOutcome outcome;
  outcome.exits = {Signal(0, SIGSEGV)};
  outcome.stop_sent = true;
  outcome.order = StopOrder::kPause;
  EXPECT_EQ(Reason(outcome), v1::TERMINATION_REASON_SIGNAL);
}

TEST(JudgeTest, ExitCodesOfTheContract) {
  const auto of_code = [](int code) {
    GangOutcome outcome;
    outcome.exits = {Code(0, code)};
    return Reason(outcome);
  };
  EXPECT_EQ(of_code(1), v1::TERMINATION_REASON_TRAINER_ERROR);
  EXPECT_EQ(of_code(3), v1::TERMINATION_REASON_PREEMPTED);
  EXPECT_EQ(of_code(4), v1::TERMINATION_REASON_WORKER_LOST);
  EXPECT_EQ(of_code(5), v1::TERMINATION_REASON_WORKER_LOST);
  EXPECT_EQ(of_code(70), v1::TERMINATION_REASON_INTERNAL);
}

TEST(JudgeTest, ASilentCoordinatorIsNotTheJobsFault) {
  GangOutcome outcome;
  outcome.exits = {Signal(0, SIGKILL, true)};
  outcome.cause = KillCause::kSelfFence;
  outcome.self_fence_seconds = 30;
  const Verdict verdict = Judge(outcome, "");
  EXPECT_EQ(verdict.reason, v1::TERMINATION_REASON_WORKER_LOST);
  EXPECT_EQ(verdict.failure.reason(), "SELF_FENCED");
  EXPECT_THAT(verdict.failure.message(), HasSubstr("no answer from the coordinator for 30.0 s"));
}

TEST(LastLineTest, LastThatIsNotBlank) {
  auto folder = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-line-test");
  ASSERT_TRUE(folder.ok());
  const auto path = folder->path() / "log";
  EXPECT_EQ(LastLine(path), "");
  ASSERT_TRUE(WriteFileAtomic(path, std::string(10'000, 'x') + "\nterminate called\n\n  \n").ok());
  EXPECT_EQ(LastLine(path), "terminate called");
}

}  // namespace
}  // namespace sbora::agent
