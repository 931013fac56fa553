// Full fine-tuning through the real program: a checkpoint in an adapter's place, resume, and what can be done with it.
#include "core/full_checkpoint.h"
#include "tests/integration/trainer/trainer_fixture.h"

namespace sbora::testing {
namespace {

class FullTest : public TrainerProcessTest, public ::testing::WithParamInterface<bool> {
 protected:
  FullTest() {
    fs::remove_all(Path("model"));
    EXPECT_TRUE(WriteTinyModel(Path("model"), {.tie_word_embeddings = GetParam()}).ok());
    base_hash_ = core::ModelFolder::Open(Path("model"))->ComputeBaseHash();
  }

  TaskAssignment FullAssignment(const std::string& work) const {
    TaskAssignment task = TrainAssignment(work);
    auto& train = *task.mutable_task()->mutable_train();
    train.clear_indices();
    train.set_base_hash(base_hash_);
    train.mutable_spec()->mutable_adapter()->set_method(sbora::v1::METHOD_FULL);
    train.mutable_spec()->mutable_adapter()->set_dropout(0);
    train.mutable_spec()->mutable_training()->set_learning_rate(0.002);
    return task;
  }

  std::string Output(const std::string& work) const { return (Path(work) / "output").string(); }
  std::string Weights(const std::string& work) const { return Slurp(Path(work) / "output" / "model.safetensors"); }

  void Train() {
    ASSERT_NO_FATAL_FAILURE(Prepare());
    reference_ = RunTrainer(FullAssignment("reference"), Log());
    ASSERT_EQ(reference_.exit_code, 0) << Slurp(Log());
  }

  TrainerRun Evaluate(const std::string& work, const std::string& model, const std::string& adapter,
                      const std::string& base_hash) const {
    TaskAssignment task = Assignment(work);
    task.mutable_task()->mutable_evaluate()->mutable_spec()->set_exact_match(false);
    task.mutable_task()->mutable_evaluate()->set_base_hash(base_hash);
    (*task.mutable_directories())["model"] = model;
    if (!adapter.empty()) (*task.mutable_directories())["adapter"] = adapter;
    return RunTrainer(task, Log());
  }

  std::string ReasonOf(TaskAssignment task) const {
    const TrainerRun run = RunTrainer(task, Log());
    return run.error ? run.error->failure().reason() : "none";
  }
};

TEST_P(FullTest, LeavesAWholeCheckpointThatEvaluatesAsAModelAndInTheBasesPlace) {
  ASSERT_NO_FATAL_FAILURE(Train());
  EXPECT_LT(reference_.metrics.back().loss(), reference_.metrics.front().loss());
  const auto folder = core::OpenFullCheckpoint(Output("reference"), base_hash_);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_FALSE(fs::exists(fs::path(Output("reference")) / "adapter_config.json"));
  EXPECT_TRUE(fs::exists(fs::path(Output("reference")) / "tokenizer.json"));

  const TrainerRun beside = Evaluate("beside", Path("model").string(), Output("reference"), base_hash_);
  ASSERT_TRUE(beside.result) << Slurp(Log());
  const TrainerRun alone = Evaluate("alone", Output("reference"), "", "");
  ASSERT_TRUE(alone.result) << Slurp(Log());
  EXPECT_EQ(beside.result->evaluate().loss(), alone.result->evaluate().loss());
  const TrainerRun base = Evaluate("base", Path("model").string(), "", base_hash_);
  ASSERT_TRUE(base.result) << Slurp(Log());
  EXPECT_GT(base.result->evaluate().loss(), beside.result->evaluate().loss() + 0.01);
  const TrainerRun other = Evaluate("other", Path("model").string(), Output("reference"), std::string(64, '0'));
  ASSERT_TRUE(other.error);
  EXPECT_EQ(other.error->failure().reason(), "BASE_HASH_MISMATCH");
}

TEST_P(FullTest, AKilledAndResumedRunGivesTheSameBytes) {
  ASSERT_NO_FATAL_FAILURE(Train());
  ASSERT_EQ(KillAtCheckpointFour("killed", FullAssignment("killed")).exit_code, 128 + SIGKILL);
  const int64_t newest = NewestCheckpoint("killed");
  EXPECT_GE(newest, 4);
  const TrainerRun resumed = RunTrainer(FullAssignment("killed"), Log());
  ASSERT_EQ(resumed.exit_code, 0) << Slurp(Log());
  ASSERT_NE(resumed.FindEvent("RESUMED"), nullptr);
  EXPECT_EQ(resumed.metrics.front().step(), newest + 1);
  EXPECT_TRUE(Weights("killed") == Weights("reference"));
}

TEST_P(FullTest, InEightBitsAKilledAndResumedRunGivesTheSameBytesToo) {
  ASSERT_NO_FATAL_FAILURE(Train());
  const auto in_8_bits = [&](const std::string& work) {
    TaskAssignment task = FullAssignment(work);
    auto& training = *task.mutable_task()->mutable_train()->mutable_spec()->mutable_training();
    training.set_optimizer(sbora::v1::OPTIMIZER_ADAMW_8BIT);
    training.set_paged_optimizer(true);
    return task;
  };
  const TrainerRun undisturbed = RunTrainer(in_8_bits("undisturbed"), Log());
  ASSERT_EQ(undisturbed.exit_code, 0) << Slurp(Log());
  EXPECT_NE(undisturbed.FindEvent("PAGED_OPTIMIZER_NO_EFFECT"), nullptr);
  EXPECT_LT(undisturbed.metrics.back().loss(), undisturbed.metrics.front().loss());
  EXPECT_FALSE(Weights("undisturbed") == Weights("reference"));

  ASSERT_EQ(KillAtCheckpointFour("killed", in_8_bits("killed")).exit_code, 128 + SIGKILL);
  const auto state = core::SafetensorsFile::Open(Path("killed") / "checkpoints" / "ckpt-4" / "optimizer.safetensors");
  ASSERT_TRUE(state.ok()) << state.status();
  for (const char* name : {"m_codes", "v_codes"}) {
    ASSERT_TRUE(state->Contains(name));
    EXPECT_EQ(state->Tensor(name)->dtype, core::DType::kU8);
  }
  const TrainerRun refused = RunTrainer(FullAssignment("killed"), Log());  // other moments are another run
  ASSERT_TRUE(refused.error);
  EXPECT_EQ(refused.error->failure().reason(), "CHECKPOINT_OTHER_RUN");
  const int64_t newest = NewestCheckpoint("killed");
  EXPECT_GE(newest, 4);
  const TrainerRun resumed = RunTrainer(in_8_bits("killed"), Log());
  ASSERT_EQ(resumed.exit_code, 0) << Slurp(Log());
  EXPECT_EQ(resumed.metrics.front().step(), newest + 1);
  EXPECT_TRUE(Weights("killed") == Weights("undisturbed"));
}

TEST_P(FullTest, GradientCheckpointingGivesTheSameBytes) {
  ASSERT_NO_FATAL_FAILURE(Train());
  TaskAssignment task = FullAssignment("recomputed");
  task.mutable_task()->mutable_train()->mutable_spec()->mutable_training()->set_gradient_checkpointing(true);
  const TrainerRun run = RunTrainer(task, Log());
  ASSERT_EQ(run.exit_code, 0) << Slurp(Log());
  EXPECT_TRUE(Weights("recomputed") == Weights("reference"));
  for (size_t i = 0; i < run.metrics.size(); ++i) EXPECT_EQ(run.metrics[i].loss(), reference_.metrics[i].loss());
}

TEST_P(FullTest, GeneratesAndBecomesGgufButIsNoAdapter) {
  ASSERT_NO_FATAL_FAILURE(Train());
  TaskAssignment generate = Assignment("generate");
  (*generate.mutable_directories())["adapter"] = Output("reference");
  generate.mutable_task()->mutable_generate()->set_base_hash(base_hash_);
  auto& request = *generate.mutable_task()->mutable_generate()->mutable_request();
  request.add_prompts("add 3 4 = ");
  request.mutable_generation()->set_max_new_tokens(3);
  const TrainerRun generated = RunTrainer(generate, Log());
  ASSERT_EQ(generated.exit_code, 0) << Slurp(Log());
  EXPECT_EQ(generated.result->generate().texts_size(), 1);

  TaskAssignment task = Assignment("export");
  (*task.mutable_directories())["adapter"] = Output("reference");
  task.mutable_task()->mutable_export_()->set_format(sbora::v1::EXPORT_FORMAT_PEFT);
  EXPECT_EQ(ReasonOf(task), "FULL_CHECKPOINT");
  task.mutable_task()->mutable_merge()->set_base_hash(base_hash_);
  EXPECT_EQ(ReasonOf(task), "FULL_CHECKPOINT");
  task.mutable_task()->mutable_export_()->set_format(sbora::v1::EXPORT_FORMAT_GGUF);
  ASSERT_EQ(RunTrainer(task, Log()).exit_code, 0) << Slurp(Log());
  EXPECT_TRUE(fs::exists(Path("export") / "output" / "model-f16.gguf"));
}

INSTANTIATE_TEST_SUITE_P(Heads, FullTest, ::testing::Values(true, false),
                         [](const auto& info) { return info.param ? "Tied" : "Own"; });

}  // namespace
}  // namespace sbora::testing
