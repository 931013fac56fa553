// Evaluations through the real program and its socket, on a tiny model: rules, prompts that do not fit, likelihoods.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "common/file.h"
#include "tests/integration/trainer/trainer_process.h"
#include "tests/testing/tiny_model.h"

namespace sbora::testing {
namespace {

namespace fs = std::filesystem;
using trainer::v1::TaskAssignment;

std::string Slurp(const fs::path& path) { return *ReadFile(path, 64 << 20); }

class EvaluationTaskTest : public ::testing::Test {
 protected:
  EvaluationTaskTest() : temp_(*TempDirectory::Create(fs::temp_directory_path(), "evaluation-task-test")) {
    EXPECT_TRUE(WriteTinyModel(Path("model")).ok());
  }

  fs::path Path(const std::string& name) const { return temp_.path() / name; }
  fs::path Log() const { return Path("trainer.log"); }

  TaskAssignment Assignment(const std::string& work) const {
    TaskAssignment task;
    (*task.mutable_directories())["model"] = Path("model").string();
    task.set_output_directory((Path(work) / "output").string());
    task.set_world_size(1);
    task.set_device("cpu");
    task.set_threads(1);
    task.set_self_fence_seconds(120);
    task.set_job("projects/default/evaluationJobs/test");
    return task;
  }

 private:
  TempDirectory temp_;
};

TEST_F(EvaluationTaskTest, APromptBeyondTheContextCountsAsWrong) {
  fs::create_directories(Path("long"));
  std::ofstream(Path("long") / "data.jsonl") << "{\"prompt\":\"add 1 2 = \",\"completion\":\"3\"}\n{\"prompt\":\""
                                             << std::string(9000, 'a') << "\",\"completion\":\"b\"}\n";
  TaskAssignment task = Assignment("evaluate");
  (*task.mutable_directories())["dataset"] = Path("long").string();
  task.mutable_task()->mutable_evaluate()->mutable_spec()->mutable_generation()->set_max_new_tokens(2);
  const TrainerRun run = RunTrainer(task, Log());
  ASSERT_EQ(run.exit_code, 0) << Slurp(Log());
  EXPECT_NE(run.FindEvent("PROMPTS_TOO_LONG"), nullptr);
  ASSERT_EQ(run.result->evaluate().examples_size(), 2);
  EXPECT_EQ(run.result->evaluate().samples(), 2);
  EXPECT_FALSE(run.result->evaluate().examples(1).match());
  EXPECT_EQ(run.result->evaluate().examples(1).output(), "");
}

TEST_F(EvaluationTaskTest, ScoresGeneratedAnswersByTheRule) {
  fs::create_directories(Path("numbers"));
  std::ofstream(Path("numbers") / "data.jsonl")
      << R"({"prompt":"add 1 2 = ","completion":"x","answer":"3","subject":"sums"})"
         "\n"
      << R"({"prompt":"add 2 2 = ","completion":"so 4","subject":"sums"})"
         "\n"
      << R"({"prompt":"take 1 of 2 = ","completion":"1","subject":"differences"})"
         "\n";
  TaskAssignment task = Assignment("numbers-out");
  (*task.mutable_directories())["dataset"] = Path("numbers").string();
  auto& spec = *task.mutable_task()->mutable_evaluate()->mutable_spec();
  spec.set_scoring(sbora::v1::SCORING_LAST_NUMBER);
  spec.set_perplexity(false);
  spec.mutable_generation()->set_max_new_tokens(6);
  spec.mutable_generation()->set_num_beams(3);
  const TrainerRun run = RunTrainer(task, Log());
  ASSERT_EQ(run.exit_code, 0) << Slurp(Log());
  const auto& result = run.result->evaluate();
  ASSERT_EQ(result.examples_size(), 3);
  EXPECT_EQ(result.examples(1).expected(), "4");
  int64_t unanswered = 0;
  int64_t correct = 0;
  for (const auto& example : result.examples()) {
    unanswered += example.answer().empty() ? 1 : 0;
    correct += example.match() ? 1 : 0;
  }
  EXPECT_EQ(result.unanswered(), unanswered);
  EXPECT_EQ(result.correct(), correct);
  EXPECT_EQ(result.exact_matches(), 0);
  EXPECT_EQ(result.perplexity(), 0);
  ASSERT_EQ(result.subjects_size(), 2);
  EXPECT_EQ(result.subjects(1).subject(), "sums");
  EXPECT_EQ(result.subjects(1).samples(), 2);
  EXPECT_DOUBLE_EQ(result.subject_mean(), (result.subjects(0).accuracy() + result.subjects(1).accuracy()) / 2);

  std::ofstream(Path("numbers") / "data.jsonl") << R"({"prompt":"p","completion":"none"})";
  EXPECT_EQ(RunTrainer(task, Log()).error->failure().reason(), "UNKNOWN_ANSWER");
}

TEST_F(EvaluationTaskTest, ChoosesByLikelihoodWithTheShotsThatFit) {
  fs::create_directories(Path("questions"));
  fs::create_directories(Path("shots"));
  std::ofstream(Path("questions") / "data.jsonl")
      << R"({"subject":"s","question":"short","choices":["x","y"],"answer":"B"})"
         "\n"
      << R"({"subject":"s","question":")" << std::string(100, 'l')
      << R"(","choices":["x","y"],"answer":"A"})"
         "\n"
      << R"({"subject":"s","question":")" << std::string(400, 'l')
      << R"(","choices":["x","y"],"answer":"A"})"
         "\n";
  std::ofstream(Path("shots") / "data.jsonl")
      << R"({"subject":"s","question":"one","choices":["x","y"],"answer":"A"})"
         "\n"
      << R"({"subject":"s","question":"two","choices":["x","y"],"answer":"B"})"
         "\n"
      << R"({"subject":"s","question":"three","choices":["x","y"],"answer":"B"})"
         "\n";
  TaskAssignment task = Assignment("choices-out");
  (*task.mutable_directories())["dataset"] = Path("questions").string();
  (*task.mutable_directories())["few_shots"] = Path("shots").string();
  auto& spec = *task.mutable_task()->mutable_evaluate()->mutable_spec();
  spec.set_scoring(sbora::v1::SCORING_CHOICE_LIKELIHOOD);
  spec.set_perplexity(false);
  spec.set_few_shots(3);
  const TrainerRun run = RunTrainer(task, Log());
  ASSERT_EQ(run.exit_code, 0) << Slurp(Log());
  EXPECT_NE(run.FindEvent("FEW_SHOTS_LEFT_OUT"), nullptr);
  EXPECT_NE(run.FindEvent("PROMPTS_TOO_LONG"), nullptr);
  const auto& result = run.result->evaluate();
  ASSERT_EQ(result.examples_size(), 3);
  EXPECT_THAT(result.examples(0).prompt(), ::testing::HasSubstr("three\nA. x\nB. y\nAnswer: B\n\nshort\nA. x"));
  EXPECT_THAT(result.examples(1).prompt(), ::testing::Not(::testing::HasSubstr("three")));
  EXPECT_THAT(result.examples(1).prompt(), ::testing::HasSubstr("one\nA. x"));
  ASSERT_EQ(result.examples(0).choice_log_probabilities_size(), 2);
  const bool first = result.examples(0).choice_log_probabilities(0) >= result.examples(0).choice_log_probabilities(1);
  EXPECT_EQ(result.examples(0).answer(), first ? "A" : "B");
  EXPECT_EQ(result.examples(0).match(), !first);
  EXPECT_LT(result.examples(0).choice_log_probabilities(0), 0);
  EXPECT_EQ(result.prompts_too_long(), 1);
  EXPECT_EQ(result.unanswered(), 1);
  EXPECT_EQ(run.last_progress.step(), 2);

  // One token a byte: the space before each letter is the same token.
  spec.set_scoring(sbora::v1::SCORING_CHOICE_LIKELIHOOD_SPACED);
  EXPECT_EQ(RunTrainer(task, Log()).error->failure().reason(), "CHOICE_TOKENS_ALIKE");
}

}  // namespace
}  // namespace sbora::testing
