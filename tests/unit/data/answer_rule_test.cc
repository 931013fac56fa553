#include "data/answer_rule.h"

#include <gmock/gmock.h>

namespace sbora::data {
namespace {

using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Optional;

std::optional<std::string> Found(Scoring scoring, std::string_view text, const std::vector<std::string>& words = {}) {
  return FindAnswer({.scoring = scoring, .answer_words = words}, text);
}

TEST(ResponseText, EndsWhereTheModelGoesOnByItself) {
  EXPECT_EQ(ResponseText(" the correct answer is true\n"), "the correct answer is true");
  EXPECT_EQ(ResponseText("true\n\n### Response: false"), "true");
  EXPECT_EQ(ResponseText("### Response:true"), "");
  EXPECT_EQ(ResponseText("### Instruction:\nfalse"), "### Instruction:\nfalse");
  EXPECT_EQ(ResponseText(" \t\r\n"), "");
}

TEST(AnswerWord, IsTheFirstHitAnywhere) {
  const std::vector<std::string> words = {"true", "false"};
  const auto found = [&](std::string_view text) { return Found(Scoring::kAnswerWord, text, words); };
  EXPECT_THAT(found("the correct answer is false"), Optional(Eq("false")));
  EXPECT_THAT(found("false, not true"), Optional(Eq("false")));
  EXPECT_THAT(found("it is untrue"), Optional(Eq("true")));  // as the published rule: no word borders
  EXPECT_EQ(found("True"), std::nullopt);                    // and case counts
  EXPECT_EQ(found(""), std::nullopt);
  EXPECT_EQ(found("tru"), std::nullopt);
  EXPECT_THAT(Found(Scoring::kAnswerWord, "answer12", {"answer1", "answer2"}), Optional(Eq("answer1")));
  EXPECT_THAT(Found(Scoring::kAnswerWord, "abc", {"ab", "abc"}), Optional(Eq("ab")));
  EXPECT_THAT(Found(Scoring::kAnswerWord, "abc", {"abc", "ab"}), Optional(Eq("abc")));
  EXPECT_THAT(found(std::string("\0true", 5)), Optional(Eq("true")));
}

TEST(LastNumber, TakesCommasOutAndReadsSignsAndFractions) {
  const auto found = [](std::string_view text) { return Found(Scoring::kLastNumber, text); };
  EXPECT_THAT(found("72 + 3 = 75. The answer is 1,075."), Optional(Eq("1075.")));
  EXPECT_THAT(found("x = -3.50"), Optional(Eq("-3.50")));
  EXPECT_THAT(found("5-2"), Optional(Eq("-2")));   // findall of -?\d+\.?\d*: "5", "-2"
  EXPECT_THAT(found("1.2.3"), Optional(Eq("3")));  // "1.2", "3"
  EXPECT_THAT(found("--7"), Optional(Eq("-7")));
  EXPECT_THAT(found("$.5"), Optional(Eq("5")));
  EXPECT_THAT(found("1e5"), Optional(Eq("5")));
  EXPECT_EQ(found("- , . -"), std::nullopt);
  EXPECT_EQ(found("twelve"), std::nullopt);
  EXPECT_EQ(found("\xD9\xA3"), std::nullopt);  // a digit, but no ASCII one
  EXPECT_THAT(found(std::string(100000, '9')), Optional(Eq(std::string(100000, '9'))));
}

TEST(LastNumber, IsRightWithinAThousandth) {
  const AnswerRule rule{.scoring = Scoring::kLastNumber};
  EXPECT_TRUE(IsRight(rule, "15.0", "15"));
  EXPECT_TRUE(IsRight(rule, "15.0", "15."));
  EXPECT_TRUE(IsRight(rule, " 1,200 ", "1200"));
  EXPECT_TRUE(IsRight(rule, "0.333", "0.3335"));
  EXPECT_FALSE(IsRight(rule, "0.333", "0.3351"));
  EXPECT_FALSE(IsRight(rule, "-5", "5"));
  EXPECT_FALSE(IsRight(rule, "15", std::string(400, '9')));  // infinite, as Python's float
}

TEST(OptionLetterPaper, HitsTheAOfAnswer) {
  const auto found = [](std::string_view text) { return Found(Scoring::kOptionLetterPaper, text); };
  EXPECT_THAT(found("The Answer is (C)."), Optional(Eq("A")));
  EXPECT_THAT(found("the answer is (C)."), Optional(Eq("C")));
  EXPECT_EQ(found("the answer is f"), std::nullopt);
  EXPECT_EQ(found(""), std::nullopt);
}

TEST(OptionLetterStrict, WantsALetterGivenAsTheAnswer) {
  const auto found = [](std::string_view text) { return Found(Scoring::kOptionLetterStrict, text); };
  EXPECT_THAT(found("Rationale: A + B. The Answer is (C)."), Optional(Eq("C")));
  EXPECT_THAT(found("answer: B\nanswer is D"), Optional(Eq("D")));
  EXPECT_THAT(found("The answer is option E"), Optional(Eq("E")));
  EXPECT_THAT(found("**Answer:** (B)"), Optional(Eq("B")));
  EXPECT_THAT(found("answer is B. The answer is unknown"), Optional(Eq("B")));  // the last that has one
  EXPECT_THAT(found("(D)"), Optional(Eq("D")));
  EXPECT_THAT(found(" B "), Optional(Eq("B")));
  EXPECT_THAT(found("C) 35.62"), Optional(Eq("C")));
  EXPECT_EQ(found("A man walks"), std::nullopt);
  EXPECT_EQ(found("The answer is Dividing"), std::nullopt);
  EXPECT_EQ(found("The answer is A's turn"), std::nullopt);
  EXPECT_EQ(found("The answer is F"), std::nullopt);
  EXPECT_EQ(found("answer is"), std::nullopt);
  EXPECT_EQ(found("Because (C) looks good"), std::nullopt);
  EXPECT_EQ(found(""), std::nullopt);
}

TEST(ExactMatch, ComparesAllOfItTrimmed) {
  const AnswerRule rule;
  EXPECT_THAT(FindAnswer(rule, "  a b\n"), Optional(Eq("a b")));
  EXPECT_TRUE(IsRight(rule, "a b ", "a b"));
  EXPECT_FALSE(IsRight(rule, "a b", "a  b"));
}

TEST(CheckExpected, SaysWhyAnAnswerCouldNeverBeRight) {
  const auto why = [](Scoring scoring, std::string_view expected) {
    return CheckExpected({.scoring = scoring, .answer_words = {"true", "false"}}, expected);
  };
  EXPECT_THAT(why(Scoring::kAnswerWord, "true"), IsEmpty());
  EXPECT_EQ(why(Scoring::kAnswerWord, "yes"), "\"yes\" is none of true, false");
  EXPECT_THAT(why(Scoring::kLastNumber, "-1,234.5"), IsEmpty());
  EXPECT_EQ(why(Scoring::kLastNumber, "1/2"), "\"1/2\" is no number");
  EXPECT_THAT(why(Scoring::kLastNumber, "inf"), HasSubstr("no number"));
  EXPECT_THAT(why(Scoring::kLastNumber, "nan"), HasSubstr("no number"));
  EXPECT_THAT(why(Scoring::kLastNumber, ""), HasSubstr("no number"));
  EXPECT_THAT(why(Scoring::kOptionLetterPaper, "E"), IsEmpty());
  EXPECT_THAT(why(Scoring::kOptionLetterStrict, "F"), HasSubstr("A to E"));
  EXPECT_THAT(why(Scoring::kExactMatch, ""), IsEmpty());
}

}  // namespace
}  // namespace sbora::data
