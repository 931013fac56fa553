#include "data/evaluation_set.h"

#include <gmock/gmock.h>

#include "common/file.h"
#include "data/prompt_template.h"

namespace sbora::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class EvaluationSetTest : public ::testing::Test {
 protected:
  std::filesystem::path Write(const std::string& name, const std::string& text) {
    const auto path = dir_.path() / name;
    EXPECT_TRUE(WriteFileAtomic(path, text).ok());
    return path;
  }
  EvaluationInputs Inputs(Scoring scoring, const std::string& text, std::vector<std::string> words = {}) {
    EvaluationInputs inputs;
    inputs.dataset = Write("data", text);
    inputs.rule = {.scoring = scoring, .answer_words = std::move(words)};
    return inputs;
  }

  TempDirectory dir_ = TempDirectory::Create(::testing::TempDir(), "evaluation-set").value();
};

TEST_F(EvaluationSetTest, ExpectsTheAnswerFieldAndElseWhatTheRuleFinds) {
  const auto set = ReadEvaluationSet(Inputs(Scoring::kLastNumber,
                                            R"([{"instruction":"i","input":"","output":"so 3","answer":"4.0"},)"
                                            "\n"
                                            R"({"instruction":"i","output":"so 3"},)"
                                            "\n"
                                            R"({"instruction":"i","output":"","answer":5}])"));
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->items.size(), 3U);
  EXPECT_EQ(set->items[0].expected, "4.0");
  EXPECT_EQ(set->items[0].reference, "so 3");
  EXPECT_EQ(set->items[1].expected, "3");
  EXPECT_EQ(set->items[2].expected, "5");
  EXPECT_EQ(set->items[2].index, 2);
}

TEST_F(EvaluationSetTest, RefusesUnknownAnswersWithTheirLines) {
  EvaluationInputs inputs = Inputs(Scoring::kAnswerWord,
                                   R"({"instruction":"i","output":"o","answer":"true"})"
                                   "\n"
                                   R"({"instruction":"i","output":"o","answer":"maybe"})"
                                   "\n"
                                   R"({"instruction":"i","output":"o","answer":["true"]})"
                                   "\n",
                                   {"true", "false"});
  inputs.max_samples = 1;  // all are checked
  const Status bad = ReadEvaluationSet(inputs).status();
  EXPECT_EQ(bad.reason(), "UNKNOWN_ANSWER");
  EXPECT_THAT(bad.message(), HasSubstr("2 of 3 records"));
  ASSERT_EQ(bad.violations().size(), 2U);
  EXPECT_EQ(bad.violations()[0].field, "line 2");
  EXPECT_EQ(bad.violations()[0].description, "\"maybe\" is none of true, false");
  EXPECT_EQ(bad.violations()[1].field, "line 3");
  EXPECT_THAT(bad.violations()[1].description, HasSubstr("no field \"answer\""));
  EXPECT_EQ(CheckEvaluationSet(inputs).message(), bad.message());
}

TEST_F(EvaluationSetTest, KeepsTheFirstSamplesOnly) {
  EvaluationInputs inputs = Inputs(Scoring::kExactMatch, R"({"prompt":"p","completion":"1"})"
                                                         "\n"
                                                         R"({"prompt":"p","completion":"2"})");
  inputs.max_samples = 1;
  const auto set = ReadEvaluationSet(inputs);
  ASSERT_EQ(set->items.size(), 1U);
  EXPECT_EQ(set->items[0].expected, "1");
  EXPECT_EQ(ReadEvaluationSet(Inputs(Scoring::kExactMatch, "")).status().reason(), "DATASET_EMPTY");
  EXPECT_EQ(ReadEvaluationSet(Inputs(Scoring::kExactMatch, "{}")).status().reason(), "DATASET_INVALID");
}

const std::string kQuestions = R"({"subject":"a_b","question":"q1","choices":["x","y"],"answer":"B"})"
                               "\n"
                               R"({"subject":"c","question":"q2","choices":["x","y","z"],"answer":0})"
                               "\n";

TEST_F(EvaluationSetTest, FewShotsComeBySubjectAndInOrder) {
  EvaluationInputs inputs = Inputs(Scoring::kChoiceLikelihood, kQuestions);
  inputs.few_shots = 2;
  std::string shots;
  for (const char* subject : {"a_b", "c", "a_b", "a_b", "c"}) {
    shots += std::string(R"({"subject":")") + subject + R"(","question":"s)" + std::to_string(shots.size()) +
             R"(","choices":["1","2"],"answer":"A"})"
             "\n";
  }
  inputs.few_shot_dataset = Write("shots", shots);
  const auto set = ReadEvaluationSet(inputs);
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->few_shots.at("a_b").size(), 2U);
  EXPECT_THAT(set->few_shots.at("a_b")[0].prompt, HasSubstr("s0\n"));
  EXPECT_EQ(FewShotPrompt("a_b", set->few_shots.at("a_b"), set->items[0].record),
            "The following are multiple choice questions (with answers) about  a b.\n\n"
            "s0\nA. 1\nB. 2\nAnswer: A\n\n" +
                set->few_shots.at("a_b")[1].prompt + " A\n\nq1\nA. x\nB. y\nAnswer:");
  EXPECT_EQ(set->items[1].expected, "A");

  inputs.few_shots = 3;
  const Status few = CheckEvaluationSet(inputs);
  EXPECT_EQ(few.reason(), "FEW_SHOTS_MISSING");
  EXPECT_THAT(few.message(), HasSubstr("2 of 3 questions on the subject \"c\""));
}

TEST_F(EvaluationSetTest, LikelihoodNeedsChoices) {
  const Status bad = CheckEvaluationSet(Inputs(Scoring::kChoiceLikelihood, R"({"prompt":"p","completion":"A"})"));
  EXPECT_EQ(bad.reason(), "NO_CHOICES");
  EXPECT_THAT(bad.message(), HasSubstr("prompt_completion"));
  EvaluationInputs inputs = Inputs(Scoring::kChoiceLikelihood, kQuestions);
  inputs.few_shots = 1;
  inputs.few_shot_dataset = Write("shots", R"({"instruction":"i","output":"o"})");
  EXPECT_EQ(CheckEvaluationSet(inputs).reason(), "NO_CHOICES");
}

}  // namespace
}  // namespace sbora::data
