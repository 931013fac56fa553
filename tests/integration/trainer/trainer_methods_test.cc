// LoRA, LoRA with a frozen A, and DoRA through the real program: what SBoRA's tests hold of training, resume and merge
// holds for them too.
#include "core/adapter.h"
#include "core/lora_init.h"
#include "tests/integration/trainer/trainer_fixture.h"

namespace sbora::testing {
namespace {

struct Case {
  std::string title;
  sbora::v1::Method method;
  sbora::v1::FrozenFactor frozen_a;
  bool rank_stabilized;
};

class MethodTest : public TrainerProcessTest, public ::testing::WithParamInterface<Case> {
 protected:
  TaskAssignment MethodAssignment(const std::string& work) const {
    TaskAssignment task = TrainAssignment(work);
    task.mutable_task()->mutable_train()->clear_indices();
    auto& adapter = *task.mutable_task()->mutable_train()->mutable_spec()->mutable_adapter();
    adapter.set_method(GetParam().method);
    adapter.set_frozen_a(GetParam().frozen_a);
    adapter.set_rank_stabilized(GetParam().rank_stabilized);
    return task;
  }

  void Train() {
    ASSERT_NO_FATAL_FAILURE(Prepare());
    reference_ = RunTrainer(MethodAssignment("reference"), Log());
    ASSERT_EQ(reference_.exit_code, 0) << Slurp(Log());
  }

  std::string Output(const std::string& work) const { return (Path(work) / "output").string(); }

  /// Of a model, with or without an adapter, over the data set.
  double EvaluatedLoss(const std::string& work, const std::string& model, const std::string& adapter) const {
    TaskAssignment task = Assignment(work);
    task.mutable_task()->mutable_evaluate()->mutable_spec()->set_exact_match(false);
    (*task.mutable_directories())["model"] = model;
    if (!adapter.empty()) (*task.mutable_directories())["adapter"] = adapter;
    const TrainerRun run = RunTrainer(task, Log());
    EXPECT_TRUE(run.result) << Slurp(Log());
    return run.result ? run.result->evaluate().loss() : -1;
  }
};

TEST_P(MethodTest, TrainsAndLeavesACheckedAdapter) {
  ASSERT_NO_FATAL_FAILURE(Train());
  EXPECT_LT(reference_.metrics.back().loss(), reference_.metrics.front().loss());
  const auto folder = core::AdapterFolder::Open(Output("reference"));
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->config().rank_stabilized, GetParam().rank_stabilized);
  EXPECT_EQ(folder->config().base_hash, base_hash_);
  const std::string module = "model.layers.1.mlp.down_proj";
  const auto drawn = core::DrawLoraA(42, module, kRank, 64, folder->config().frozen_a);
  const auto stored = folder->Floats("base_model.model." + module + ".lora_A.weight");
  ASSERT_TRUE(stored.ok()) << stored.status();
  EXPECT_EQ(*stored == drawn, GetParam().frozen_a != sbora::v1::FROZEN_FACTOR_NONE);
}

TEST_P(MethodTest, AKilledAndResumedRunGivesTheSameBytes) {
  ASSERT_NO_FATAL_FAILURE(Train());
  const TrainerRun first = KillAtCheckpointFour("killed", MethodAssignment("killed"));
  ASSERT_EQ(first.exit_code, 128 + SIGKILL);
  TaskAssignment other = MethodAssignment("killed");  // another A is another run
  other.mutable_task()->mutable_train()->mutable_spec()->mutable_adapter()->set_index_seed(43);
  const TrainerRun refused = RunTrainer(other, Log());
  ASSERT_TRUE(refused.error);
  EXPECT_EQ(refused.error->failure().reason(), "CHECKPOINT_OTHER_RUN");
  const int64_t newest = NewestCheckpoint("killed");
  EXPECT_GE(newest, 4);
  const TrainerRun resumed = RunTrainer(MethodAssignment("killed"), Log());
  ASSERT_EQ(resumed.exit_code, 0) << Slurp(Log());
  EXPECT_EQ(resumed.metrics.front().step(), newest + 1);
  EXPECT_TRUE(AdapterBytes("killed") == AdapterBytes("reference"));
}

TEST_P(MethodTest, TheMergedModelHasTheAdaptersLoss) {
  ASSERT_NO_FATAL_FAILURE(Train());
  TaskAssignment merge = Assignment("merge");
  (*merge.mutable_directories())["adapter"] = Output("reference");
  merge.mutable_task()->mutable_merge()->set_base_hash(base_hash_);
  ASSERT_EQ(RunTrainer(merge, Log()).exit_code, 0) << Slurp(Log());
  const double adapted = EvaluatedLoss("adapted", Path("model").string(), Output("reference"));
  EXPECT_NEAR(EvaluatedLoss("merged", Output("merge"), ""), adapted, 1e-4);
  EXPECT_GT(EvaluatedLoss("base", Path("model").string(), ""), adapted + 0.01);
}

INSTANTIATE_TEST_SUITE_P(
    All, MethodTest,
    ::testing::Values(Case{"lora", sbora::v1::METHOD_LORA, sbora::v1::FROZEN_FACTOR_NONE, false},
                      Case{"lora_fa", sbora::v1::METHOD_LORA, sbora::v1::FROZEN_FACTOR_RANDOM, false},
                      Case{"orthonormal", sbora::v1::METHOD_LORA, sbora::v1::FROZEN_FACTOR_ORTHONORMAL, true},
                      Case{"dora", sbora::v1::METHOD_DORA, sbora::v1::FROZEN_FACTOR_NONE, false}),
    [](const auto& info) { return info.param.title; });

}  // namespace
}  // namespace sbora::testing
