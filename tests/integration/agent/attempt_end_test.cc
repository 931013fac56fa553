// How attempts end that fail: what the real sbora-worker tells the coordinator of it.
#include <signal.h>

#include "common/sha256.h"
#include "tests/integration/agent/agent_fixture.h"

namespace sbora::agent {
namespace {

using ::testing::Contains;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::SizeIs;

using AttemptEndTest = AgentTest;

TEST_F(AttemptEndTest, DeathOfARankEndsTheGang) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;step_ms=10;orphan_at=1", 2);
  ASSERT_TRUE(WaitForStep(uid, 2)) << LogText();
  ASSERT_TRUE(WaitForProcesses(uid, 3));
  const auto pids = ProcessesOf(uid);
  ASSERT_THAT(pids, SizeIs(3));
  ::kill(*std::max_element(pids.begin(), pids.end() - 1), SIGKILL);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  EXPECT_TRUE(WaitForProcesses(uid, 0));
  EXPECT_EQ(coordinator_.View(uid).ended->reason(), v1::TERMINATION_REASON_SIGNAL);
}

TEST_F(AttemptEndTest, ARankOfAPartThatDiesIsNamedByItsNumberInTheGang) {
  const auto worker = StartWorker({"--gang-address", "127.0.0.1"});
  const auto uids = coordinator_.AddGang("steps=100000;signal_at=2;bad_rank=1;step_ms=10", 2);
  ASSERT_TRUE(WaitForEnd(uids[1])) << LogText();
  EXPECT_EQ(coordinator_.View(uids[1]).ended->reason(), v1::TERMINATION_REASON_SIGNAL);
  EXPECT_THAT(coordinator_.View(uids[1]).ended->failure().message(), HasSubstr("rank 1 ended by signal 11 (SIGSEGV)"));
  EXPECT_FALSE(coordinator_.View(uids[0]).ended);  // that is the coordinator's to say
}

TEST_F(AttemptEndTest, APartOfAGangThatEndedIsKilledAndItsCheckpointsStillGoUp) {
  const auto worker = StartWorker({"--gang-address", "127.0.0.1"});
  const auto uids = coordinator_.AddGang("steps=100000;checkpoint_every=3;step_ms=10;ignore_stop=1", 2);
  ASSERT_TRUE(WaitForStep(uids[0], 3)) << LogText();
  for (const std::string& uid : uids) coordinator_.Stop(uid, worker::v1::StopLease::REASON_GANG_ENDED);
  for (const std::string& uid : uids) {
    ASSERT_TRUE(WaitForEnd(uid)) << LogText();
    EXPECT_EQ(coordinator_.View(uid).ended->reason(), v1::TERMINATION_REASON_WORKER_LOST);
    EXPECT_EQ(coordinator_.View(uid).ended->failure().reason(), "GANG_ENDED");
    EXPECT_TRUE(WaitForProcesses(uid, 0));
  }
  EXPECT_THAT(CheckpointSteps(coordinator_.View(uids[0])), Contains(3));
}

TEST_F(AttemptEndTest, APartWhoseWorkerHasNoSuchAddressSaysSo) {
  const auto worker = StartWorker({"--gang-address", "192.0.2.1"});  // of documentation, nobody's
  const auto uids = coordinator_.AddGang("steps=1", 2);
  ASSERT_TRUE(WaitForEnd(uids[0])) << LogText();
  EXPECT_EQ(coordinator_.View(uids[0]).ended->failure().reason(), "GANG_ADDRESS");
  EXPECT_THAT(coordinator_.View(uids[0]).ended->failure().message(), HasSubstr("--gang-address 192.0.2.1"));
  // The other waits for as long as it takes and ends when it is told to.
  coordinator_.Stop(uids[1], worker::v1::StopLease::REASON_GANG_ENDED);
  ASSERT_TRUE(WaitForEnd(uids[1])) << LogText();
  EXPECT_EQ(coordinator_.View(uids[1]).ended->failure().reason(), "GANG_ENDED");
}

TEST_F(AttemptEndTest, CrashOfARankIsNamed) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;signal_at=2;bad_rank=1;step_ms=10", 2);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  const LeaseView view = coordinator_.View(uid);
  EXPECT_EQ(view.ended->reason(), v1::TERMINATION_REASON_SIGNAL);
  EXPECT_EQ(view.ended->failure().reason(), "RANK_SIGNALED");
  EXPECT_EQ(view.ended->failure().code(), static_cast<int>(StatusCode::kAborted));
  EXPECT_THAT(view.ended->failure().message(), HasSubstr("rank 1 ended by signal 11 (SIGSEGV)"));
}

TEST_F(AttemptEndTest, ExitCodesTellWhatBecameOfARank) {
  struct Case {
    int exit_code;
    v1::TerminationReason ending;
    StatusCode code;
    const char* reason;
    bool last_output;
  };
  const Case cases[] = {
      {4, v1::TERMINATION_REASON_WORKER_LOST, StatusCode::kUnavailable, "RANK_FENCED", false},
      {5, v1::TERMINATION_REASON_WORKER_LOST, StatusCode::kUnavailable, "RANK_FENCED", false},
      {9, v1::TERMINATION_REASON_TRAINER_ERROR, StatusCode::kInternal, "RANK_EXITED", true},
      {70, v1::TERMINATION_REASON_INTERNAL, StatusCode::kInternal, "TRAINER_INTERNAL", true},
  };
  const auto worker = StartWorker();
  for (const auto& [exit_code, ending, code, reason, last_output] : cases) {
    SCOPED_TRACE(exit_code);
    const std::string uid = coordinator_.AddTrainLease("steps=9;exit_at=2;exit_code=" + std::to_string(exit_code));
    ASSERT_TRUE(WaitForEnd(uid)) << LogText();
    const LeaseView view = coordinator_.View(uid);
    EXPECT_EQ(view.ended->reason(), ending);
    const v1::Failure& failure = view.ended->failure();
    EXPECT_EQ(failure.code(), static_cast<int>(code));
    EXPECT_EQ(failure.reason(), reason);
    EXPECT_THAT(failure.message(), HasSubstr("rank 0"));
    EXPECT_THAT(failure.message(), HasSubstr("exit code " + std::to_string(exit_code)));
    EXPECT_EQ(failure.message().find("last words") != std::string::npos, last_output) << failure.message();
  }
}

TEST_F(AttemptEndTest, AResultIsUploadedForAsLongAsTheLeaseLives) {
  coordinator_.RefuseUploads(4);
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=2");
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed || view.ended; })) << LogText();
  EXPECT_TRUE(coordinator_.View(uid).committed) << LogText();
  EXPECT_THAT(LogText(), HasSubstr("a result cannot be uploaded yet"));
}

TEST_F(AttemptEndTest, AResultThatFitsNoMessageEndsTheAttempt) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=1;result_kib=5000");
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  const LeaseView view = coordinator_.View(uid);
  EXPECT_EQ(view.commits, 0);
  EXPECT_EQ(view.ended->failure().code(), static_cast<int>(StatusCode::kResourceExhausted));
  EXPECT_EQ(view.ended->failure().reason(), "RESULT_TOO_LARGE");
  EXPECT_THAT(view.ended->failure().message(),
              ContainsRegex("the result has 512[0-9]{4} bytes, a message holds 4128768; ask for fewer"));
}

TEST_F(AttemptEndTest, ALeaseWithoutSlotsIsRefused) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=1", 0);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  const v1::Failure failure = coordinator_.View(uid).ended->failure();
  EXPECT_EQ(failure.code(), static_cast<int>(StatusCode::kInvalidArgument));
  EXPECT_EQ(failure.reason(), "LEASE_WITHOUT_SLOTS");
  EXPECT_THAT(failure.message(), HasSubstr(uid));
  EXPECT_THAT(failure.message(), HasSubstr("projects/default/fineTuningJobs/job names no slots"));
}

TEST_F(AttemptEndTest, TrainersErrorWins) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;error_at=4;checkpoint_every=2;step_ms=10", 2);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  const LeaseView view = coordinator_.View(uid);
  EXPECT_EQ(view.ended->reason(), v1::TERMINATION_REASON_NON_FINITE);
  EXPECT_EQ(view.ended->failure().message(), "loss is nan at step 4");
  EXPECT_THAT(CheckpointSteps(view), Contains(2));  // uploaded although the attempt failed
}

TEST_F(AttemptEndTest, BytesThatAreNoMessageEndTheGang) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=9;garbage_at=2");
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  EXPECT_EQ(coordinator_.View(uid).ended->failure().reason(), "BAD_FRAME");
}

TEST_F(AttemptEndTest, HangIsNoticed) {
  coordinator_.timing.set_hang_seconds(0.5);
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=9;hang_at=3;step_ms=5", 2);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  EXPECT_EQ(coordinator_.View(uid).ended->reason(), v1::TERMINATION_REASON_HANG);
  EXPECT_TRUE(WaitForProcesses(uid, 0));
}

TEST_F(AttemptEndTest, SilenceOfTheCoordinatorFences) {
  coordinator_.timing.set_self_fence_seconds(1);
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;step_ms=10", 2);
  // A machine that stands still for the fence's time is fenced before it is cut off: that is told the same way.
  const auto running = [](const LeaseView& view) {
    return view.ended || (!view.states.empty() && view.states.back() == "running");
  };
  ASSERT_TRUE(coordinator_.WaitFor(uid, running)) << LogText();
  const MonotonicTime start = SystemClock().Now();
  coordinator_.set_silent(true);
  ASSERT_TRUE(WaitForProcesses(uid, 0)) << LogText();
  // What the fence is for: the ranks are gone before anybody else is given their work.
  EXPECT_LT(SystemClock().Now() - start, std::chrono::duration<double>(coordinator_.timing.lease_seconds()));
  coordinator_.set_silent(false);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  const LeaseView view = coordinator_.View(uid);
  EXPECT_EQ(view.ended->reason(), v1::TERMINATION_REASON_WORKER_LOST);
  EXPECT_EQ(view.ended->failure().code(), static_cast<int>(StatusCode::kUnavailable));
  EXPECT_EQ(view.ended->failure().reason(), "SELF_FENCED");
  EXPECT_THAT(view.ended->failure().message(), HasSubstr("no answer from the coordinator for 1.0 s"));
}

TEST_F(AttemptEndTest, DamageThatTheTrainerMeetsIsNotTheUsersFault) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=9;wait_at=2;invalid_at=2");
  ASSERT_TRUE(WaitForStep(uid, 1)) << LogText();
  const fs::path weights = CachedWeights();
  Rot(weights);
  LetGo(uid);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  const LeaseView view = coordinator_.View(uid);
  EXPECT_EQ(view.ended->reason(), v1::TERMINATION_REASON_TRAINER_ERROR);
  EXPECT_EQ(view.ended->failure().reason(), "CACHE_DAMAGED");
  EXPECT_EQ(view.ended->failure().code(), static_cast<int>(StatusCode::kDataLoss));
  EXPECT_THAT(view.ended->failure().message(), HasSubstr("the header is no JSON"));
  const std::string next = coordinator_.AddTrainLease("steps=2");
  ASSERT_TRUE(coordinator_.WaitFor(next, [](const LeaseView& lease) { return lease.committed; })) << LogText();
  EXPECT_EQ(DigestFile(weights)->sha256, weights.filename());
}

TEST_F(AttemptEndTest, BadInputStaysBadInputAndTheCacheStays) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=9;invalid_at=1");
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  const LeaseView view = coordinator_.View(uid);
  EXPECT_EQ(view.ended->reason(), v1::TERMINATION_REASON_INVALID_INPUT);
  EXPECT_EQ(view.ended->failure().reason(), "SAFETENSORS_MALFORMED");
  EXPECT_TRUE(fs::exists(CachedWeights()));
}

TEST_F(AttemptEndTest, BadFileNameIsRefused) {
  const auto worker = StartWorker();
  const v1::File escape = coordinator_.FileOf("../../escape", "3");
  const std::string uid = coordinator_.AddTrainLease("steps=9", 1, &escape);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  EXPECT_EQ(coordinator_.View(uid).ended->reason(), v1::TERMINATION_REASON_INVALID_INPUT);
  EXPECT_FALSE(fs::exists(data_dir() / "attempts" / "escape"));
}

}  // namespace
}  // namespace sbora::agent
