// Stops, kills, damage and resumes of the real program: the adapter's bytes are those of the undisturbed run.
#include <utility>

#include "core/manifest.h"
#include "tests/integration/trainer/trainer_fixture.h"

namespace sbora::testing {
namespace {

TEST_F(TrainerProcessTest, AStoppedAndResumedRunGivesTheSameBytes) {
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed());
  for (const int64_t stop_at : {1, 5}) {
    SCOPED_TRACE(stop_at);
    const std::string work = "stopped-" + std::to_string(stop_at);
    const TrainerRun first = RunTrainer(TrainAssignment(work), Log(), [&](TrainerProcess& process, const TrainerMessage& message) {
      if (message.has_metric() && message.metric().step() == stop_at) process.SendStop();
    });
    ASSERT_TRUE(first.exit_code == 3 || first.exit_code == 0) << first.exit_code;
    if (first.exit_code == 3) {  // it may have been done before it read the stop
      ASSERT_FALSE(first.checkpoints.empty());
      EXPECT_EQ(first.checkpoints.back().step(), first.metrics.back().step());
      const TrainerRun second = RunTrainer(TrainAssignment(work), Log());
      ASSERT_EQ(second.exit_code, 0) << Slurp(Log());
      EXPECT_NE(second.FindEvent("RESUMED"), nullptr);
      EXPECT_EQ(second.metrics.front().step(), first.metrics.back().step() + 1);
      EXPECT_EQ(second.result->train().validation_loss(), reference_.result->train().validation_loss());
      EXPECT_EQ(second.result->train().trained_tokens(), reference_.result->train().trained_tokens());
    }
    EXPECT_TRUE(AdapterBytes(work) == AdapterBytes("reference"));
  }
}

TEST_F(TrainerProcessTest, AKilledRunResumedFromItsUploadedCheckpointGivesTheSameBytes) {
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed());
  const TrainerRun first = KillAtCheckpointFour("killed", TrainAssignment("killed"));
  ASSERT_EQ(first.exit_code, 128 + SIGKILL);
  // Another machine: only what the agent uploaded is there.
  fs::create_directories(Path("elsewhere"));
  fs::copy(Path("killed") / "checkpoints" / "ckpt-4", Path("fetched"), fs::copy_options::recursive);
  TaskAssignment task = TrainAssignment("elsewhere");
  (*task.mutable_directories())["checkpoint"] = Path("fetched").string();
  const TrainerRun second = RunTrainer(task, Log());
  ASSERT_EQ(second.exit_code, 0) << Slurp(Log());
  EXPECT_EQ(second.metrics.front().step(), 5);
  EXPECT_TRUE(AdapterBytes("elsewhere") == AdapterBytes("reference"));
}

TEST_F(TrainerProcessTest, OfTwoFetchedCheckpointsTheOlderStandsInForADamagedNewer) {
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed());
  TaskAssignment task = TrainAssignment("elsewhere");
  for (const auto& [input, name] : {std::pair("checkpoint", "ckpt-8"), std::pair("checkpoint_before", "ckpt-6")}) {
    fs::copy(Path("reference") / "checkpoints" / name, Path(input), fs::copy_options::recursive);
    (*task.mutable_directories())[input] = Path(input).string();
  }
  const fs::path damaged = Path("checkpoint") / "optimizer.safetensors";
  fs::resize_file(damaged, fs::file_size(damaged) - 4);
  const TrainerRun run = RunTrainer(task, Log());
  ASSERT_EQ(run.exit_code, 0) << Slurp(Log());
  ASSERT_NE(run.FindEvent("CHECKPOINT_REJECTED"), nullptr);
  EXPECT_EQ(run.metrics.front().step(), 7);
  EXPECT_TRUE(AdapterBytes("elsewhere") == AdapterBytes("reference"));
}

TEST_F(TrainerProcessTest, AKilledRunGivesTheSameBytesWithEitherMethodInEitherFormAndSeveralThreads) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  struct Case {
    const char* method;
    const char* form;
    int threads;
  };
  const Case cases[] = {{"fb", "plain", 1}, {"fa", "plain", 2}, {"fb", "merged", 2}, {"fa", "merged", 1}};
  for (const auto& [method, form, threads] : cases) {
    const std::string name = fmt::format("{}-{}", method, form);
    SCOPED_TRACE(name);
    const auto assignment = [&](const std::string& work) {
      TaskAssignment task = TrainAssignment(work);
      if (method == std::string("fb")) UseFb(task);
      auto& adapter = *task.mutable_task()->mutable_train()->mutable_spec()->mutable_adapter();
      adapter.set_dropout(form == std::string("plain") ? 0.1 : 0);
      task.set_threads(threads);
      return task;
    };
    ASSERT_EQ(RunTrainer(assignment(name), Log()).exit_code, 0) << Slurp(Log());
    const TrainerRun killed = KillAtCheckpointFour(name + "-killed", assignment(name + "-killed"));
    ASSERT_EQ(killed.exit_code, 128 + SIGKILL);
    const TrainerRun resumed = RunTrainer(assignment(name + "-killed"), Log());
    ASSERT_EQ(resumed.exit_code, 0) << Slurp(Log());
    ASSERT_NE(resumed.FindEvent("RESUMED"), nullptr);
    EXPECT_THAT(resumed.FindEvent("RESUMED")->message(), ::testing::EndsWith(fmt::format("in float32, {} form", form)));
    EXPECT_THAT(resumed.FindEvent("COMPUTE_FORM")->message(),
                ::testing::StartsWith(fmt::format("{}: sbora_{} with dropout", form, method)));
    EXPECT_EQ(resumed.FindEvent("RESUMED_DIFFERENTLY"), nullptr);
    EXPECT_TRUE(AdapterBytes(name + "-killed") == AdapterBytes(name));
  }
}

/// A mixture of 22 and 3 samples, half and half in epochs of 20: the small set comes again within an epoch, with other
/// dropout masks. Batches of similar length.
TEST_F(TrainerProcessTest, AKilledRunOnAMixtureGroupedByLengthGivesTheSameBytes) {
  ASSERT_TRUE(WriteTinyDataset(Path("small") / "data.jsonl", 3).ok());
  const auto assignment = [&](const std::string& work) {
    TaskAssignment task = TrainAssignment(work);
    task.mutable_directories()->erase("dataset");
    (*task.mutable_directories())["dataset-0"] = Path("dataset").string();
    (*task.mutable_directories())["dataset-1"] = Path("small").string();
    auto& train = *task.mutable_task()->mutable_train();
    train.mutable_spec()->clear_dataset();
    for (const auto& [name, weight] : {std::pair{"sums", 2.0}, {"few", 2.0}}) {
      train.mutable_spec()->add_datasets(name);
      train.mutable_spec()->add_dataset_weights(weight);
      train.add_mixture_formats(sbora::v1::DATASET_FORMAT_PROMPT_COMPLETION);
    }
    train.mutable_spec()->mutable_training()->set_epoch_samples(20);
    train.mutable_spec()->mutable_training()->set_group_by_length(true);
    train.mutable_spec()->mutable_data()->set_validation_samples(2);
    return task;
  };
  TaskAssignment prepare = assignment("prepare");
  prepare.set_prepare_only(true);
  const TrainerRun prepared = RunTrainer(prepare, Log());
  ASSERT_EQ(prepared.exit_code, 0) << Slurp(Log());
  EXPECT_THAT(prepared.FindEvent("DATA_PREPARED")->message(),
              ::testing::ContainsRegex("; sums: .*10 drawn in each epoch; few: .*10 drawn in each epoch"));
  const TrainerRun whole = RunTrainer(assignment("whole"), Log());
  ASSERT_EQ(whole.exit_code, 0) << Slurp(Log());
  EXPECT_DOUBLE_EQ(whole.metrics.at(3).epoch(), 1.0);  // 20 samples in batches of 5
  const TrainerRun killed = KillAtCheckpointFour("killed", assignment("killed"));
  ASSERT_EQ(killed.exit_code, 128 + SIGKILL);
  const int64_t newest = NewestCheckpoint("killed");
  EXPECT_GE(newest, 4);
  const TrainerRun resumed = RunTrainer(assignment("killed"), Log());
  ASSERT_EQ(resumed.exit_code, 0) << Slurp(Log());
  EXPECT_EQ(resumed.metrics.front().step(), newest + 1);
  EXPECT_TRUE(AdapterBytes("killed") == AdapterBytes("whole"));
}

TEST_F(TrainerProcessTest, AResumeTakesTheThreadsOfItsCheckpointOrSaysThatItCannot) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  TaskAssignment two = TrainAssignment("two");
  two.set_threads(2);
  ASSERT_EQ(RunTrainer(two, Log()).exit_code, 0) << Slurp(Log());
  const auto resume = [&](const std::string& work, int slot_cores, int spec_threads) {
    TaskAssignment task = TrainAssignment(work);
    task.set_threads(slot_cores);
    task.mutable_task()->mutable_train()->mutable_spec()->mutable_resources()->set_threads(spec_threads);
    (*task.mutable_directories())["checkpoint"] = (Path("two") / "checkpoints" / "ckpt-6").string();
    const TrainerRun run = RunTrainer(task, Log());
    EXPECT_EQ(run.exit_code, 0) << Slurp(Log());
    EXPECT_EQ(run.metrics.front().step(), 7);
    return run;
  };
  const TrainerRun wider = resume("wider", 3, 0);
  EXPECT_THAT(wider.FindEvent("RESUMED")->message(), ::testing::HasSubstr("with 2 threads on cpu in float32"));
  EXPECT_EQ(wider.FindEvent("RESUMED_DIFFERENTLY"), nullptr);
  EXPECT_TRUE(AdapterBytes("wider") == AdapterBytes("two"));

  const TrainerRun narrower = resume("narrower", 1, 0);
  const auto* differently = narrower.FindEvent("RESUMED_DIFFERENTLY");
  ASSERT_NE(differently, nullptr);
  EXPECT_EQ(differently->level(), sbora::v1::FineTuningEvent::LEVEL_WARN);
  EXPECT_THAT(differently->message(), ::testing::ContainsRegex("with 2 threads .*with 1 threads"));

  const TrainerRun told = resume("told", 1, 3);  // the spec's word counts
  EXPECT_THAT(told.FindEvent("RESUMED")->message(), ::testing::HasSubstr("with 3 threads"));
  EXPECT_NE(told.FindEvent("RESUMED_DIFFERENTLY"), nullptr);
}

TEST_F(TrainerProcessTest, ADamagedCheckpointIsNamedAndTheOneBeforeIsUsed) {
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed());
  fs::remove_all(Path("reference") / "output2");
  const fs::path damaged = Path("reference") / "checkpoints" / "ckpt-8" / "optimizer.safetensors";
  fs::resize_file(damaged, fs::file_size(damaged) - 4);
  const std::string before = AdapterBytes("reference");
  const TrainerRun again = RunTrainer(TrainAssignment("reference"), Log());
  ASSERT_EQ(again.exit_code, 0) << Slurp(Log());
  const auto* rejected = again.FindEvent("CHECKPOINT_REJECTED");
  ASSERT_NE(rejected, nullptr);
  EXPECT_THAT(rejected->message(), ::testing::HasSubstr("ckpt-8"));
  EXPECT_EQ(again.metrics.front().step(), 7);
  EXPECT_TRUE(AdapterBytes("reference") == before);
}

TEST_F(TrainerProcessTest, ACheckpointOfANewerVersionIsAnErrorNotANewBeginning) {
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed());
  const fs::path newest = Path("reference") / "checkpoints" / "ckpt-8";
  std::string state = ReadFile(newest / "state.json", 1 << 20).value();
  const std::string version = "\"version\": 1";
  ASSERT_NE(state.find(version), std::string::npos) << state;
  ASSERT_TRUE(WriteFileAtomic(newest / "state.json", state.replace(state.find(version), version.size(), "\"version\": 99")).ok());
  const auto manifest = core::BuildManifest(newest, {{"step", 8}});
  ASSERT_TRUE(manifest.ok() && core::WriteManifest(newest, *manifest).ok());
  const TrainerRun run = RunTrainer(TrainAssignment("reference"), Log());
  EXPECT_EQ(run.exit_code, 1);
  ASSERT_TRUE(run.error);
  EXPECT_EQ(run.error->failure().reason(), "CHECKPOINT_VERSION");
}

TEST_F(TrainerProcessTest, ACheckpointOfAnotherRunIsAnError) {
  ASSERT_NO_FATAL_FAILURE(TrainUndisturbed());
  TaskAssignment task = TrainAssignment("reference");
  task.mutable_task()->mutable_train()->mutable_spec()->mutable_training()->set_learning_rate(0.02);
  const TrainerRun run = RunTrainer(task, Log());
  EXPECT_EQ(run.exit_code, 1);
  ASSERT_TRUE(run.error);
  EXPECT_EQ(run.error->failure().reason(), "CHECKPOINT_OTHER_RUN");
}

}  // namespace
}  // namespace sbora::testing
