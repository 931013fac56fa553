#include "data/choice_csv.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "common/file.h"

namespace sbora::data {
namespace {

using ::testing::HasSubstr;

const std::string kHeader = "question,choice0,choice1,choice2,choice3,answer\n";

/// "REASON: message" of the refusal.
std::string Why(const std::string& csv) {
  const auto lines = ChoiceCsvToJsonl(csv, "s", "f.csv");
  return lines.ok() ? "OK" : fmt::format("{}: {}", lines.status().reason(), lines.status().message());
}

TEST(ChoiceCsv, ReadsBothForms) {
  const std::string expected = R"({"subject":"s","question":"q","choices":["a","b","c","d"],"answer":"C"})"
                               "\n";
  EXPECT_EQ(ChoiceCsvToJsonl(kHeader + "q,a,b,c,d,2\n", "s", "f").value(), expected);
  EXPECT_EQ(ChoiceCsvToJsonl("q,a,b,c,d,C", "s", "f").value(), expected);
  EXPECT_EQ(ChoiceCsvToJsonl("\xEF\xBB\xBFq,a,b,c,d,C\r\n\r\n", "s", "f").value(), expected);
}

TEST(ChoiceCsv, ReadsQuotesCommasLineFeedsAndEmptyCells) {
  EXPECT_EQ(ChoiceCsvToJsonl("\"q, \"\"x\"\"\ny\",,\"b\",c,\"d,\",A\n", "s", "f").value(),
            R"({"subject":"s","question":"q, \"x\"\ny","choices":["","b","c","d,"],"answer":"A"})"
            "\n");
  EXPECT_EQ(ChoiceCsvToJsonl("5\" pipe,a,b,c,d,A\n", "s", "f").value(),  // a quote inside a bare cell is a quote
            R"({"subject":"s","question":"5\" pipe","choices":["a","b","c","d"],"answer":"A"})"
            "\n");
}

TEST(ChoiceCsv, RefusesWithTheLine) {
  EXPECT_EQ(Why(kHeader + "q,a,b,c,d,1\nq,a,b,c,1\n"),
            "CSV_INVALID: f.csv: line 3: 5 columns; a question, four choices and the answer are expected");
  EXPECT_EQ(Why(kHeader + "q,a,b,c,d,4\n"), "CSV_INVALID: f.csv: line 2: answer \"4\"; 0 to 3 is expected");
  EXPECT_EQ(Why(kHeader + "q,a,b,c,d,B\n"), "CSV_INVALID: f.csv: line 2: answer \"B\"; 0 to 3 is expected");
  EXPECT_EQ(Why("q,a,b,c,d,1\n"), "CSV_INVALID: f.csv: line 1: answer \"1\"; a letter A to D is expected");
  EXPECT_EQ(Why("q,a,b,c,d,\n"), "CSV_INVALID: f.csv: line 1: answer \"\"; a letter A to D is expected");
  EXPECT_EQ(Why("q,a,b,c,d,A\n\"q\n\n,a"), "CSV_INVALID: f.csv: line 2: a quote that opens here is never closed");
  EXPECT_EQ(Why("\"q\"x,a,b,c,d,A\n"), "CSV_INVALID: f.csv: line 1: text behind a closing quote");
  EXPECT_EQ(Why("q\xFF,a,b,c,d,A\n"), "CSV_INVALID: f.csv: line 1: bytes that are no UTF-8");
  EXPECT_EQ(Why(kHeader), "CSV_EMPTY: f.csv holds no question");
  EXPECT_EQ(Why(""), "CSV_EMPTY: f.csv holds no question");
}

TEST(ChoiceCsv, AFolderIsOneSetWithASubjectForEachFile) {
  const TempDirectory dir = TempDirectory::Create(::testing::TempDir(), "csv").value();
  ASSERT_TRUE(WriteFileAtomic(dir.path() / "b_test.csv", "q2,a,b,c,d,B\n").ok());
  ASSERT_TRUE(WriteFileAtomic(dir.path() / "a_b_dev.csv", "q1,a,b,c,d,A\n").ok());
  ASSERT_TRUE(WriteFileAtomic(dir.path() / "notes.txt", "x").ok());
  EXPECT_EQ(ReadChoiceCsv(dir.path()).value(),
            R"({"subject":"a_b","question":"q1","choices":["a","b","c","d"],"answer":"A"})"
            "\n"
            R"({"subject":"b","question":"q2","choices":["a","b","c","d"],"answer":"B"})"
            "\n");
  EXPECT_EQ(SubjectOf("x/anatomy.csv"), "anatomy");
  EXPECT_EQ(SubjectOf("x/anatomy_val.csv"), "anatomy");
  EXPECT_EQ(SubjectOf("x/_test.csv"), "_test");
  const TempDirectory empty = TempDirectory::Create(::testing::TempDir(), "csv").value();
  EXPECT_EQ(ReadChoiceCsv(empty.path()).status().reason(), "NO_CSV_FILES");
  EXPECT_EQ(ReadChoiceCsv(empty.path() / "absent.csv").status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace sbora::data
