// One job on several ranks of the real program: the numbers of one rank, one voice, one end, and the same bytes whatever
// disturbed it.
#include <cmath>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "core/full_checkpoint.h"
#include "tests/integration/trainer/trainer_fixture.h"

namespace sbora::testing {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

class RanksTest : public TrainerProcessTest {
 protected:
  using MakeTask = std::function<TaskAssignment(int rank)>;
  using OnMessage = std::function<void(int rank, TrainerProcess&, const TrainerMessage&)>;

  /// Micro-batches of one sample: batches of five, and of three at the end of an epoch, leave some of four ranks without any.
  TaskAssignment RanksAssignment(const std::string& work, int64_t steps = 10) const {
    TaskAssignment task = TrainAssignment(work, steps);
    task.mutable_task()->mutable_train()->mutable_spec()->mutable_training()->set_micro_batch_size(1);
    return task;
  }

  /// Long enough to be hit in its midst.
  TaskAssignment LongAssignment(const std::string& work) const {
    TaskAssignment task = RanksAssignment(work, 120);
    task.mutable_task()->mutable_train()->mutable_spec()->mutable_checkpoint()->set_checkpoint_every_steps(10);
    return task;
  }

  /// All ranks of an attempt, to their ends.
  std::vector<TrainerRun> RunRanks(int ranks, const MakeTask& make_task, const OnMessage& on_message = {}) {
    const fs::path rendezvous = Path("rendezvous-" + std::to_string(++attempts_));
    std::vector<TrainerRun> runs(static_cast<size_t>(ranks));
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < ranks; ++rank) {
      TaskAssignment task = make_task(rank);
      task.mutable_task()->mutable_train()->mutable_spec()->mutable_resources()->set_ranks(ranks);
      task.set_rank(rank);
      task.set_world_size(ranks);
      task.set_rendezvous_file(rendezvous.string());
      threads.emplace_back([this, rank, task, &runs, &on_message] {
        runs[static_cast<size_t>(rank)] = RunTrainer(task, Log(), [&](TrainerProcess& process, const TrainerMessage& message) {
          if (on_message) on_message(rank, process, message);
        });
      });
    }
    threads.clear();
    return runs;
  }
  std::vector<TrainerRun> RunRanks(int ranks, const TaskAssignment& task, const OnMessage& on_message = {}) {
    return RunRanks(ranks, [&](int) { return task; }, on_message);
  }

  static void ExpectAllEndWith(const std::vector<TrainerRun>& runs, int exit_code) {
    for (size_t rank = 0; rank < runs.size(); ++rank) {
      const auto& error = runs[rank].error;
      EXPECT_EQ(runs[rank].exit_code, exit_code) << "rank " << rank << ": " << (error ? error->failure().message() : "");
    }
  }

  /// Largest difference of any factor's elements.
  double AdapterDifference(const std::string& one, const std::string& other) const {
    const auto a = core::AdapterFolder::Open(Path(one) / "output");
    const auto b = core::AdapterFolder::Open(Path(other) / "output");
    EXPECT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    double difference = 0;
    for (const auto& tensor : a->tensors().tensors()) {
      if (tensor.dtype != core::DType::kF32) continue;
      const auto x = a->Floats(tensor.name), y = b->Floats(tensor.name);
      for (size_t i = 0; i < x->size(); ++i) difference = std::max<double>(difference, std::abs((*x)[i] - (*y)[i]));
    }
    return difference;
  }

  int attempts_ = 0;
};

void ExpectSameNumbers(const TrainerRun& run, const TrainerRun& expected) {
  ASSERT_EQ(run.metrics.size(), expected.metrics.size());
  for (size_t i = 0; i < run.metrics.size(); ++i) {
    SCOPED_TRACE(i);
    // Float32 sums in another order; ten steps of AdamW carry them on.
    const sbora::v1::MetricPoint& point = run.metrics[i];
    const sbora::v1::MetricPoint& wanted = expected.metrics[i];
    EXPECT_NEAR(point.loss(), wanted.loss(), 1e-5 * wanted.loss());
    EXPECT_NEAR(point.gradient_norm(), wanted.gradient_norm(), 1e-4 * wanted.gradient_norm());
    EXPECT_EQ(point.trained_tokens(), wanted.trained_tokens());
    EXPECT_EQ(point.has_validation_loss(), wanted.has_validation_loss());
    EXPECT_NEAR(point.validation_loss(), wanted.validation_loss(), 1e-5 * wanted.validation_loss());
  }
  EXPECT_EQ(run.result->train().kept_step(), expected.result->train().kept_step());
  EXPECT_EQ(run.result->train().trained_tokens(), expected.result->train().trained_tokens());
  EXPECT_EQ(run.result->train().supervised_share(), expected.result->train().supervised_share());
}

/// Dropout is on, gradient checkpointing too in one case.
TEST_F(RanksTest, OneTwoAndFourRanksGiveTheSameLossesAndAdapter) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  const std::map<std::string, std::function<void(TaskAssignment&)>> methods = {
      {"fa", [](TaskAssignment&) {}},
      {"fb", UseFb},
      {"dora",
       [](TaskAssignment& task) {
         task.mutable_task()->mutable_train()->clear_indices();
         auto& spec = *task.mutable_task()->mutable_train()->mutable_spec();
         spec.mutable_adapter()->set_method(sbora::v1::METHOD_DORA);
         spec.mutable_training()->set_gradient_checkpointing(true);
       }},
  };
  for (const auto& [method, use] : methods) {
    std::map<int, TrainerRun> by_ranks;
    for (const int ranks : {1, 2, 4}) {
      SCOPED_TRACE(method + " on " + std::to_string(ranks));
      const std::string work = method + "-" + std::to_string(ranks);
      TaskAssignment task = RanksAssignment(work);
      use(task);
      const auto runs = RunRanks(ranks, task);
      ExpectAllEndWith(runs, 0);
      ASSERT_FALSE(HasFailure()) << Slurp(Log());
      by_ranks[ranks] = runs[0];
      ExpectSameNumbers(runs[0], by_ranks.at(1));
      EXPECT_LT(AdapterDifference(work, method + "-1"), 2e-5);
      for (size_t rank = 1; rank < runs.size(); ++rank) {  // they live, and leave the talking to rank 0
        EXPECT_GT(runs[rank].ticks, 10);
        EXPECT_TRUE(runs[rank].metrics.empty() && runs[rank].checkpoints.empty() && runs[rank].events.empty());
        EXPECT_FALSE(runs[rank].result);
      }
    }
  }
}

TEST_F(RanksTest, FullFineTuningOnTwoRanksIsThatOnOne) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  std::vector<TrainerRun> leaders;
  for (const int ranks : {1, 2}) {
    TaskAssignment task = RanksAssignment("full-" + std::to_string(ranks));
    auto& train = *task.mutable_task()->mutable_train();
    train.clear_indices();
    train.mutable_spec()->mutable_adapter()->set_method(sbora::v1::METHOD_FULL);
    train.mutable_spec()->mutable_adapter()->set_dropout(0);
    train.mutable_spec()->mutable_training()->set_learning_rate(0.002);
    const auto runs = RunRanks(ranks, task);
    ExpectAllEndWith(runs, 0);
    ASSERT_FALSE(HasFailure()) << Slurp(Log());
    EXPECT_TRUE(core::OpenFullCheckpoint(Path("full-" + std::to_string(ranks)) / "output", base_hash_).ok());
    leaders.push_back(runs[0]);
  }
  ExpectSameNumbers(leaders[1], leaders[0]);
}

/// Only rank 1 hears of the stop, as with a signal to one process.
TEST_F(RanksTest, AStopOfOneRankIsOneOfAllAndTheResumedRunGivesTheSameBytes) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  const auto undisturbed = RunRanks(2, LongAssignment("reference"));
  ExpectAllEndWith(undisturbed, 0);
  const auto stop = [](int rank, TrainerProcess& process, const TrainerMessage& message) {
    if (rank == 1 && message.has_progress() && message.progress().progress().step() >= 3) process.SendStop();
  };
  const auto stopped = RunRanks(2, LongAssignment("stopped"), stop);
  ExpectAllEndWith(stopped, 3);
  ASSERT_FALSE(HasFailure()) << Slurp(Log());
  ASSERT_FALSE(stopped[0].checkpoints.empty());
  EXPECT_EQ(stopped[0].checkpoints.back().step(), stopped[0].metrics.back().step());
  const auto resumed = RunRanks(2, LongAssignment("stopped"));
  ExpectAllEndWith(resumed, 0);
  EXPECT_EQ(resumed[0].metrics.front().step(), stopped[0].metrics.back().step() + 1);
  EXPECT_EQ(resumed[0].FindEvent("RESUMED_DIFFERENTLY"), nullptr);
  EXPECT_TRUE(AdapterBytes("stopped") == AdapterBytes("reference"));
}

TEST_F(RanksTest, AKilledRankIsNamedByTheOthersAndTheResumedRunGivesTheSameBytes) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  ExpectAllEndWith(RunRanks(2, LongAssignment("reference")), 0);
  const auto kill = [](int rank, TrainerProcess& process, const TrainerMessage& message) {
    if (rank == 1 && message.has_progress() && message.progress().progress().step() >= 15) process.Signal(SIGKILL);
  };
  const auto killed = RunRanks(2, LongAssignment("killed"), kill);
  EXPECT_EQ(killed[1].exit_code, 128 + SIGKILL);
  EXPECT_EQ(killed[0].exit_code, 1);
  ASSERT_TRUE(killed[0].error) << Slurp(Log());
  EXPECT_EQ(killed[0].error->failure().reason(), "RANK_LOST");
  EXPECT_EQ(killed[0].error->reason(), sbora::v1::TERMINATION_REASON_TRAINER_ERROR);  // which is tried again
  EXPECT_THAT(killed[0].error->failure().message(), ContainsRegex("rank 1 of 2 .process [0-9]+. ended"));
  const auto resumed = RunRanks(2, LongAssignment("killed"));
  ExpectAllEndWith(resumed, 0);
  EXPECT_NE(resumed[0].FindEvent("RESUMED"), nullptr);
  EXPECT_TRUE(AdapterBytes("killed") == AdapterBytes("reference"));
}

TEST_F(RanksTest, AResumeOnAnotherNumberOfRanksGoesOnAndSaysThatBitsDiffer) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  const auto two = RunRanks(2, RanksAssignment("two"));
  ExpectAllEndWith(two, 0);
  for (const int ranks : {1, 4}) {
    SCOPED_TRACE(ranks);
    const std::string work = "resumed-" + std::to_string(ranks);
    TaskAssignment task = RanksAssignment(work);
    (*task.mutable_directories())["checkpoint"] = (Path("two") / "checkpoints" / "ckpt-6").string();
    const auto runs = RunRanks(ranks, task);
    ExpectAllEndWith(runs, 0);
    ASSERT_FALSE(HasFailure()) << Slurp(Log());
    EXPECT_EQ(runs[0].metrics.front().step(), 7);
    const auto* differently = runs[0].FindEvent("RESUMED_DIFFERENTLY");
    ASSERT_NE(differently, nullptr);
    EXPECT_THAT(differently->message(), HasSubstr("with 2 ranks of 1 threads on cpu"));
    EXPECT_LT(AdapterDifference(work, "two"), 2e-5);
    EXPECT_EQ(runs[0].result->train().trained_tokens(), two[0].result->train().trained_tokens());
  }
}

TEST_F(RanksTest, RanksThatReadDifferentCheckpointsDoNotTrain) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  ExpectAllEndWith(RunRanks(2, RanksAssignment("whole")), 0);
  const auto runs = RunRanks(2, [&](int rank) {
    TaskAssignment task = RanksAssignment("apart");
    if (rank == 0) (*task.mutable_directories())["checkpoint"] = (Path("whole") / "checkpoints" / "ckpt-6").string();
    return task;
  });
  ASSERT_TRUE(runs[0].error) << Slurp(Log());
  EXPECT_EQ(runs[0].error->failure().reason(), "RANKS_DISAGREE");
  EXPECT_THAT(runs[0].error->failure().message(), HasSubstr("rank 0 of 2 is at step 6"));
  EXPECT_TRUE(runs[1].error);
  EXPECT_TRUE(runs[0].metrics.empty());
}

TEST_F(RanksTest, ANumberThatIsNotFiniteEndsAllRanksAlike) {
  ASSERT_NO_FATAL_FAILURE(Prepare());
  TaskAssignment task = RanksAssignment("nan");
  auto& spec = *task.mutable_task()->mutable_train()->mutable_spec();
  spec.mutable_training()->set_learning_rate(1e37);
  spec.mutable_training()->set_schedule(sbora::v1::SCHEDULE_CONSTANT);
  spec.mutable_checkpoint()->set_checkpoint_every_steps(0);
  const auto runs = RunRanks(2, task);
  for (const TrainerRun& run : runs) {
    EXPECT_EQ(run.exit_code, 1);
    ASSERT_TRUE(run.error) << Slurp(Log());
    EXPECT_EQ(run.error->failure().reason(), "NON_FINITE");
    EXPECT_EQ(run.error->failure().message(), runs[0].error->failure().message());
  }
}

TEST_F(RanksTest, OnlyTrainingRunsOnSeveralRanks) {
  TaskAssignment task = Assignment("evaluate");
  task.mutable_task()->mutable_evaluate()->mutable_spec()->set_exact_match(false);
  task.set_world_size(2);
  const TrainerRun run = RunTrainer(task, Log());
  ASSERT_TRUE(run.error);
  EXPECT_EQ(run.error->failure().reason(), "MULTI_RANK");
}

}  // namespace
}  // namespace sbora::testing
