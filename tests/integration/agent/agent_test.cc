// The real sbora-worker against a coordinator in memory and a scripted trainer.
#include <signal.h>

#include <fmt/format.h>

#include "common/sha256.h"
#include "tests/integration/agent/agent_fixture.h"
#include "worker/agent/http_status.h"
#include "worker/agent/slots.h"

namespace sbora::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using worker::v1::StopLease;

TEST_F(AgentTest, RunsAWholeLease) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=6;step_ms=10;checkpoint_every=3", 2);
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; })) << LogText();
  const LeaseView view = coordinator_.View(uid);
  ASSERT_THAT(view.files, SizeIs(2));
  EXPECT_EQ(view.files[0].path(), "adapter_config.json");
  EXPECT_EQ(coordinator_.ObjectBytes(view.files[1].object()), "weights");
  EXPECT_EQ(view.commits, 1);
  int64_t steps = 0;
  int64_t expected_sequence = 1;
  for (const auto& [sequence, item] : view.items) {
    EXPECT_EQ(sequence, expected_sequence++);
    if (!item.has_metric()) continue;
    EXPECT_EQ(item.metric().step(), ++steps);
  }
  EXPECT_EQ(steps, 6);
  EXPECT_TRUE(WaitForProcesses(uid, 0));
  EXPECT_TRUE(WaitForNoAttemptFolders());
}

TEST_F(AgentTest, PartsOfAGangMeetOnceAllAreReadyAndTheOneWithRankZeroCommits) {
  const auto worker = StartWorker({"--gang-address", "127.0.0.1"});
  EXPECT_TRUE(WaitUntil([&] { return coordinator_.LastRequest().gang_address() == "127.0.0.1"; }));
  const auto uids = coordinator_.AddGang("steps=4;step_ms=10;checkpoint_every=2", 2);
  ASSERT_TRUE(coordinator_.WaitFor(uids[0], [](const LeaseView& view) { return view.committed; })) << LogText();
  ASSERT_TRUE(WaitForEnd(uids[1])) << LogText();
  const LeaseView leads = coordinator_.View(uids[0]);
  const LeaseView follows = coordinator_.View(uids[1]);
  EXPECT_THAT(leads.rendezvous, ::testing::ContainsRegex("^127.0.0.1:[0-9]+$"));
  EXPECT_THAT(leads.files, SizeIs(2));
  EXPECT_THAT(CheckpointSteps(leads), ::testing::Contains(2));
  EXPECT_EQ(follows.ended->reason(), v1::TERMINATION_REASON_DONE);
  EXPECT_TRUE(follows.rendezvous.empty());
  EXPECT_EQ(follows.commits, 0);
  EXPECT_THAT(follows.items, IsEmpty());  // rank 0 alone tells metrics and checkpoints
  EXPECT_TRUE(WaitForNoAttemptFolders());
}

TEST_F(AgentTest, SecondLeaseUsesTheCaches) {
  const auto worker = StartWorker();
  const std::string first = coordinator_.AddTrainLease("steps=1");
  ASSERT_TRUE(coordinator_.WaitFor(first, [](const LeaseView& view) { return view.committed; })) << LogText();
  const std::string second = coordinator_.AddTrainLease("steps=2");
  ASSERT_TRUE(coordinator_.WaitFor(second, [](const LeaseView& view) { return view.committed; })) << LogText();
  size_t files = 0;
  for ([[maybe_unused]] const auto& item : fs::directory_iterator(data_dir() / "cache" / "files")) ++files;
  EXPECT_EQ(files, 3U);
}

TEST_F(AgentTest, AnNf4BaseIsMadeOnceBeforeTheRanksStart) {
  const auto worker = StartWorker();
  const auto folders = [&] {
    return std::distance(fs::directory_iterator(data_dir() / "cache" / "folders"), fs::directory_iterator());
  };
  const std::string plain = coordinator_.AddTrainLease("steps=1");
  ASSERT_TRUE(coordinator_.WaitFor(plain, [](const LeaseView& view) { return view.committed; })) << LogText();
  EXPECT_EQ(folders(), 1);  // the token cache
  coordinator_.quantization = v1::QUANTIZATION_NF4;
  for (int i = 0; i < 2; ++i) {
    const std::string uid = coordinator_.AddTrainLease("steps=1", 2);
    ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; })) << LogText();
    EXPECT_EQ(folders(), 2);
  }
  EXPECT_TRUE(WaitForNoAttemptFolders());
}

TEST_F(AgentTest, CancelKillsAtOnce) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;step_ms=10;ignore_stop=1;orphan_at=1");
  ASSERT_TRUE(WaitForStep(uid, 2)) << LogText();
  coordinator_.Stop(uid, StopLease::REASON_CANCEL);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  EXPECT_EQ(coordinator_.View(uid).ended->reason(), v1::TERMINATION_REASON_CANCELLED_BY_USER);
  EXPECT_TRUE(WaitForProcesses(uid, 0));
  EXPECT_TRUE(WaitForNoAttemptFolders());
}

TEST_F(AgentTest, PauseKeepsACheckpointAndResumeGoesOnFromIt) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;step_ms=5", 2);
  ASSERT_TRUE(WaitForStep(uid, 5)) << LogText();
  coordinator_.Stop(uid, StopLease::REASON_PAUSE);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  const LeaseView view = coordinator_.View(uid);
  EXPECT_EQ(view.ended->reason(), v1::TERMINATION_REASON_PAUSED_BY_USER);
  ASSERT_THAT(CheckpointSteps(view), SizeIs(1));
  const int64_t step = CheckpointSteps(view)[0];
  v1::File checkpoint;
  for (const auto& [sequence, item] : view.items) {
    if (item.has_checkpoint()) checkpoint = item.checkpoint().files(0);
  }
  const std::string resumed = coordinator_.AddTrainLease("steps=" + std::to_string(step + 2), 1, &checkpoint);
  ASSERT_TRUE(coordinator_.WaitFor(resumed, [](const LeaseView& lease) { return lease.committed; })) << LogText();
  EXPECT_EQ(coordinator_.View(resumed).items.begin()->second.metric().step(), step + 1);
}

TEST_F(AgentTest, PauseOfADeafTrainerKillsItAfterTheGrace) {
  const auto worker = StartWorker({"--drain-seconds", "1"});
  const std::string uid = coordinator_.AddTrainLease("steps=100000;step_ms=10;ignore_stop=1");
  ASSERT_TRUE(WaitForStep(uid, 2)) << LogText();
  coordinator_.Stop(uid, StopLease::REASON_PAUSE);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  EXPECT_EQ(coordinator_.View(uid).ended->reason(), v1::TERMINATION_REASON_PAUSED_BY_USER);
  EXPECT_TRUE(WaitForProcesses(uid, 0));
}

TEST_F(AgentTest, AStopThatIsNotObeyedYetIsReportedAndACancelOvertakesIt) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;step_ms=10;ignore_stop=1");
  ASSERT_TRUE(WaitForStep(uid, 2)) << LogText();
  coordinator_.Stop(uid, StopLease::REASON_PAUSE);
  ASSERT_TRUE(coordinator_.WaitForState(uid, "stopping")) << LogText();
  coordinator_.Stop(uid, StopLease::REASON_CANCEL);
  ASSERT_TRUE(WaitForEnd(uid)) << LogText();
  EXPECT_EQ(coordinator_.View(uid).ended->reason(), v1::TERMINATION_REASON_CANCELLED_BY_USER);
  EXPECT_TRUE(WaitForProcesses(uid, 0));
}

TEST_F(AgentTest, RenewalsKeepItGoing) {
  const auto worker = StartWorker();
  // A machine that stands still for the fence's time fences rightly: then a longer fence must do.
  for (const int fence : {1, 5, 20}) {
    coordinator_.timing.set_self_fence_seconds(fence);
    const std::string uid = coordinator_.AddTrainLease(fmt::format("steps={};step_ms=10", 200 * fence));  // twice the fence
    const auto over = [](const LeaseView& view) { return view.committed || view.ended; };
    ASSERT_TRUE(coordinator_.WaitFor(uid, over)) << LogText();
    const LeaseView view = coordinator_.View(uid);
    if (view.committed) return;
    EXPECT_EQ(view.ended->failure().reason(), "SELF_FENCED") << view.ended->DebugString();
  }
  FAIL() << "fenced in spite of its renewals" << LogText();
}

TEST_F(AgentTest, KilledAgentLeavesNoProcessAndRestartsClean) {
  auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;step_ms=10;orphan_at=1", 2);
  ASSERT_TRUE(WaitForStep(uid, 2)) << LogText();
  ASSERT_TRUE(WaitForProcesses(uid, 3));
  worker->Signal(SIGKILL);
  ASSERT_EQ(worker->WaitForExit(), 128 + SIGKILL);
  EXPECT_TRUE(fs::exists(data_dir() / "attempts" / uid / "journal.json"));
  coordinator_.Fence(uid);
  worker = StartWorker();
  // The ranks died with the agent; the orphan, which has no parent-death signal, dies by the clean-up.
  EXPECT_TRUE(WaitForProcesses(uid, 0)) << LogText();
  EXPECT_TRUE(WaitForNoAttemptFolders());
  const std::string next = coordinator_.AddTrainLease("steps=2");
  ASSERT_TRUE(coordinator_.WaitFor(next, [](const LeaseView& view) { return view.committed; })) << LogText();
  EXPECT_THAT(coordinator_.Instances(), SizeIs(2));
}

TEST_F(AgentTest, RepeatedStartIsOneAttempt) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=3;wait_at=2");
  coordinator_.RepeatStart(uid);
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.duplicate_start_offered; })) << LogText();
  ASSERT_TRUE(WaitForStep(uid, 1)) << LogText();
  LetGo(uid);
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; })) << LogText();
  const LeaseView view = coordinator_.View(uid);
  EXPECT_TRUE(view.duplicate_start_offered);
  EXPECT_EQ(view.commits, 1);
  EXPECT_EQ(std::count(view.states.begin(), view.states.end(), "preparing"), 1);
}

TEST_F(AgentTest, FencedCommitIsDropped) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=4;wait_at=2");
  ASSERT_TRUE(WaitForStep(uid, 1)) << LogText();
  coordinator_.set_silent(true);  // so that only the commit can tell
  coordinator_.Fence(uid);
  LetGo(uid);
  ASSERT_TRUE(WaitForProcesses(uid, 0));
  coordinator_.set_silent(false);
  EXPECT_TRUE(WaitForNoAttemptFolders()) << LogText();
  EXPECT_FALSE(coordinator_.View(uid).committed);
  const std::string next = coordinator_.AddTrainLease("steps=2");
  EXPECT_TRUE(coordinator_.WaitFor(next, [](const LeaseView& view) { return view.committed; })) << LogText();
}

TEST_F(AgentTest, FencedLeaseEndsAtOnceWithoutReport) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;step_ms=10", 2);
  ASSERT_TRUE(WaitForStep(uid, 1)) << LogText();
  coordinator_.Fence(uid);
  EXPECT_TRUE(WaitForProcesses(uid, 0)) << LogText();
  EXPECT_TRUE(WaitForNoAttemptFolders());
  EXPECT_FALSE(coordinator_.View(uid).ended.has_value());
}

TEST_F(AgentTest, ADamagedCheckpointGivesWayToTheOneBefore) {
  const auto worker = StartWorker();
  const v1::File checkpoint = coordinator_.FileOf("state.txt", "3");
  coordinator_.CorruptObject(checkpoint.object());
  const v1::File before = coordinator_.FileOf("state.txt", "2");
  const std::string uid = coordinator_.AddTrainLease("steps=9", 1, &checkpoint, &before);
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; })) << LogText();
  const LeaseView view = coordinator_.View(uid);
  const auto& rejected = view.items.at(1).event();
  EXPECT_EQ(rejected.type(), "CHECKPOINT_REJECTED");
  EXPECT_THAT(rejected.message(), HasSubstr("checkpoint/state.txt"));
  EXPECT_EQ(view.items.at(2).metric().step(), 3) << "the first step after the older checkpoint";
  EXPECT_FALSE(fs::exists(data_dir() / "cache" / "files" / checkpoint.sha256()));
}

TEST_F(AgentTest, WithoutAnyGoodCheckpointTrainingBeginsAnew) {
  const auto worker = StartWorker();
  const v1::File checkpoint = coordinator_.FileOf("state.txt", "3");
  coordinator_.CorruptObject(checkpoint.object());
  v1::File gone = coordinator_.FileOf("state.txt", "2");
  gone.set_object("projects/default/objects/0198f3a0-0000-7000-8000-000000000000");
  const std::string uid = coordinator_.AddTrainLease("steps=4", 1, &checkpoint, &gone);
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; })) << LogText();
  const LeaseView view = coordinator_.View(uid);
  EXPECT_THAT(view.items.at(2).event().message(), HasSubstr("checkpoint_before"));
  EXPECT_EQ(view.items.at(3).metric().step(), 1);
}

TEST_F(AgentTest, RotInTheCacheIsFoundAtTheFirstUseAfterARestart) {
  auto worker = StartWorker();
  const std::string first = coordinator_.AddTrainLease("steps=1");
  ASSERT_TRUE(coordinator_.WaitFor(first, [](const LeaseView& view) { return view.committed; })) << LogText();
  worker->Signal(SIGTERM);
  ASSERT_EQ(worker->WaitForExit(), 0) << LogText();
  const fs::path weights = CachedWeights();
  Rot(weights);
  ASSERT_NE(DigestFile(weights)->sha256, weights.filename());
  worker = StartWorker();
  const std::string second = coordinator_.AddTrainLease("steps=2");
  ASSERT_TRUE(coordinator_.WaitFor(second, [](const LeaseView& view) { return view.committed; })) << LogText();
  EXPECT_EQ(DigestFile(weights)->sha256, weights.filename());
  EXPECT_THAT(LogText(), HasSubstr("a cached file is damaged"));
}

TEST_F(AgentTest, BrokenTransferGoesOn) {
  coordinator_.BreakNextTransfer(1'000'000);
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=2");
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; })) << LogText();
}

TEST_F(AgentTest, HugeOutputDoesNotStopTraining) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=3;stdout_at=2;stdout_kib=20000");
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; })) << LogText();
}

TEST_F(AgentTest, SigtermDrains) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=100000;step_ms=10");
  ASSERT_TRUE(WaitForStep(uid, 2)) << LogText();
  worker->Signal(SIGTERM);
  EXPECT_EQ(worker->WaitForExit(), 0) << LogText();
  const LeaseView view = coordinator_.View(uid);
  ASSERT_TRUE(view.ended.has_value()) << LogText();
  EXPECT_EQ(view.ended->reason(), v1::TERMINATION_REASON_PREEMPTED);
  EXPECT_THAT(CheckpointSteps(view), SizeIs(1));
  EXPECT_TRUE(WaitUntil([&] { return coordinator_.SawDraining(); }));
  EXPECT_THAT(ProcessesOf(uid), IsEmpty());
}

TEST_F(AgentTest, DrainOfAnIdleWorkerIsQuick) {
  const auto worker = StartWorker({"--ready-file", (folder_->path() / "ready").string()});
  ASSERT_TRUE(WaitUntil([&] { return fs::exists(folder_->path() / "ready"); })) << LogText();
  const auto ready = ReadFile(folder_->path() / "ready", 10'000);
  ASSERT_TRUE(ready.ok()) << LogText();
  EXPECT_THAT(*ready, HasSubstr("\"httpAddress\":\"127.0.0.1:"));
  worker->Signal(SIGTERM);
  EXPECT_EQ(worker->WaitForExit(), 0) << LogText();
  EXPECT_TRUE(WaitUntil([&] { return coordinator_.SawDraining(); })) << "the farewell";
}

TEST_F(AgentTest, TwoAgentsNeverShareADataFolder) {
  const auto first = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=1");
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; })) << LogText();
  const auto second = StartWorker();
  EXPECT_EQ(second->WaitForExit(), 1);
  EXPECT_THAT(LogText(), HasSubstr("DATA_DIR_IN_USE"));
}

TEST_F(AgentTest, GpusAreOfferedWhereTheTrainerUsesThem) {
  ::setenv("LD_LIBRARY_PATH", SBORA_FAKE_NVML, 1);
  const auto worker = StartWorker();
  ::unsetenv("LD_LIBRARY_PATH");
  const std::string uid = coordinator_.AddTrainLease("steps=1");
  ASSERT_TRUE(coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; })) << LogText();
  const worker::v1::SynchronizeRequest request = coordinator_.LastRequest();
  EXPECT_THAT(request.gpus(), ElementsAre("Test GPU", "Test GPU"));
  const auto on_gpus = std::count_if(request.slots().begin(), request.slots().end(), [](const auto& slot) { return slot.device() == "cuda"; });
  EXPECT_EQ(request.slots_size() - on_gpus, 2);
  EXPECT_EQ(on_gpus, agent::kTrainerUsesGpus ? 2 : 0);
  EXPECT_EQ(LogText().find("GPUs are reported but not offered") != std::string::npos, !agent::kTrainerUsesGpus);
}

TEST_F(AgentTest, AWorkerWithoutSlotsDoesNotStart) {
  if (agent::kTrainerUsesGpus && !agent::DiscoverHost().gpus.empty()) GTEST_SKIP() << "this machine's GPUs are slots";
  const auto worker = StartWorker({"--cpu-slots", "0"});
  EXPECT_EQ(worker->WaitForExit(), 1);
  EXPECT_THAT(LogText(), HasSubstr("INVALID_ARGUMENT [NO_SLOTS]"));
  EXPECT_THAT(LogText(), HasSubstr("give --cpu-slots 1 or more"));
}

TEST_F(AgentTest, TwoWorkersNeverShareAnHttpPort) {
  const auto port =
      HttpStatus::Start({.listen = "127.0.0.1:0", .metrics = [] { return ""; }, .alive = [] { return true; }});
  ASSERT_TRUE(port.ok()) << port.status();
  const auto worker = StartWorker({"--http-listen", (*port)->address()});
  EXPECT_EQ(worker->WaitForExit(), 1);
  EXPECT_THAT(LogText(), HasSubstr("UNAVAILABLE [ADDRESS_IN_USE]"));
  EXPECT_THAT(LogText(), HasSubstr("--http-listen " + (*port)->address()));
}

TEST_F(AgentTest, BadFlagsNameThemselves) {
  for (const auto& [flags, name] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--name", "Not_A_Label"}, "--name=Not_A_Label"},
           {{"--server", "10.0.0.1:7400"}, "--server=10.0.0.1:7400"},
           {{"--cache-bytes", "many"}, "cache-bytes"},
           {{"--nonsense", "1"}, "--nonsense"}}) {
    fs::remove(log());
    const auto worker = StartWorker(flags);
    EXPECT_EQ(worker->WaitForExit(), 2);
    EXPECT_THAT(LogText(), HasSubstr(name));
  }
}

}  // namespace
}  // namespace sbora::agent
