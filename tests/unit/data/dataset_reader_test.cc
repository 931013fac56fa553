#include "data/dataset_reader.h"

#include <gmock/gmock.h>

#include <fstream>

#include "common/file.h"

namespace sbora::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DatasetReaderTest : public ::testing::Test {
 protected:
  std::vector<Record> ReadAll(const std::string& text, ReaderOptions options = {}) {
    const auto path = dir_.path() / "data";
    std::ofstream(path, std::ios::binary) << text;
    const auto reader = DatasetReader::Open(path, options);
    EXPECT_TRUE(reader.ok()) << reader.status();
    std::vector<Record> records;
    for (;;) {
      auto record = (*reader)->Next();
      EXPECT_TRUE(record.ok()) << record.status();
      if (!record.ok() || !*record) break;
      records.push_back(std::move(**record));
    }
    stats_ = (*reader)->stats();
    format_ = (*reader)->format();
    return records;
  }
  /// The one error of a text.
  RecordError Only(const std::string& text, ReaderOptions options = {}) {
    ReadAll(text, options);
    EXPECT_EQ(stats_.errors.size(), 1u) << text;
    return stats_.errors.empty() ? RecordError{} : stats_.errors[0];
  }

  TempDirectory dir_ = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-data-test").value();
  ReaderStats stats_;
  DatasetFormat format_ = DatasetFormat::kAuto;
};

TEST_F(DatasetReaderTest, ReadsMultipleChoiceAsPromptAndLetter) {
  const auto records = ReadAll("{\"subject\":\"s\",\"question\":\"q\",\"choices\":[\"x\",\"y\"],\"answer\":1}\n"
                               "{\"question\":\"q\",\"choices\":[\"x\",\"y\",\"z\"],\"answer\":\"C\"}");
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(format_, DatasetFormat::kChoice);
  EXPECT_EQ(records[0].prompt, "q\nA. x\nB. y\nAnswer:");
  EXPECT_EQ(records[0].completion, " B");
  EXPECT_EQ(records[0].answer, "B");
  EXPECT_EQ(records[0].subject, "s");
  EXPECT_EQ(records[1].completion, " C");
  const auto reason = [&](const std::string& rest) { return Only("{\"question\":\"q\"," + rest + "}").reason; };
  EXPECT_EQ(reason(R"("choices":["x","y"],"answer":2)"), "ANSWER_UNKNOWN");
  EXPECT_EQ(reason(R"("choices":["x","y"],"answer":-1)"), "ANSWER_UNKNOWN");
  EXPECT_EQ(reason(R"("choices":["x","y"],"answer":"b")"), "ANSWER_UNKNOWN");
  EXPECT_EQ(reason(R"("choices":["x","y"],"answer":18446744073709551615)"), "ANSWER_UNKNOWN");
  EXPECT_EQ(reason(R"("choices":["x","y"],"answer":null)"), "ANSWER_UNKNOWN");
  EXPECT_EQ(reason(R"("choices":["x","y"])"), "FIELD_MISSING");
  EXPECT_EQ(reason(R"("choices":["x"],"answer":"A")"), "CHOICES_COUNT");
  EXPECT_EQ(reason(R"("choices":["x",1],"answer":"A")"), "FIELD_TYPE");
  EXPECT_EQ(reason(R"("choices":"x","answer":"A")"), "FIELD_TYPE");
}

TEST_F(DatasetReaderTest, KeepsAnswerAndSubjectWhereTheyFit) {
  const auto records = ReadAll("{\"prompt\":\"p\",\"completion\":\"c\",\"answer\":\"4\",\"subject\":\"s\"}\n"
                               "{\"prompt\":\"p\",\"completion\":\"c\",\"answer\":4.5,\"subject\":7}\n"
                               "{\"prompt\":\"p\",\"completion\":\"c\",\"answer\":[1]}");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].answer, "4");
  EXPECT_EQ(records[0].subject, "s");
  EXPECT_EQ(records[1].answer, "4.5");
  EXPECT_EQ(records[1].subject, "");
  EXPECT_EQ(records[2].answer, "");
}

const std::string kGood = R"({"prompt":"a","completion":"b"})";

TEST_F(DatasetReaderTest, ReadsTheThreeShapesAsLines) {
  const auto alpaca = ReadAll("{\"instruction\":\"i\",\"input\":null,\"output\":\"o\",\"x\":[1]}\r\n"
                              "{\"instruction\":\"i2\",\"input\":\"n\",\"output\":\"\"}");
  ASSERT_EQ(alpaca.size(), 2u);
  EXPECT_EQ(format_, DatasetFormat::kAlpaca);
  EXPECT_EQ(alpaca[0].instruction, "i");
  EXPECT_EQ(alpaca[0].input, "");
  EXPECT_EQ(alpaca[1].input, "n");
  EXPECT_EQ(alpaca[1].line, 2);
  const auto chat = ReadAll(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})");
  ASSERT_EQ(chat.size(), 1u);
  EXPECT_THAT(chat[0].messages, ElementsAre(Message{"user", "q"}, Message{"assistant", "a"}));
  EXPECT_EQ(ReadAll("\xEF\xBB\xBF" + kGood + "\n\n").size(), 1u);  // BOM; blank end
  EXPECT_EQ(stats_.bad_records, 0);
}

TEST_F(DatasetReaderTest, ReadsAnArrayWithPositions) {
  const auto records = ReadAll("  [\n " + kGood + " ,\n{\"prompt\":\"[,}\\\"\",\n \"completion\":\"]\"}\n]\n");
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].line, 2);
  EXPECT_EQ(records[1].line, 3);
  EXPECT_EQ(records[1].prompt, "[,}\"");
  EXPECT_EQ(records[1].byte_offset, 4 + 1 + static_cast<int64_t>(kGood.size()) + 3);
  EXPECT_EQ(ReadAll("[]").size(), 0u);
  EXPECT_EQ(ToStatus(stats_, "f").reason(), "DATASET_EMPTY");
}

TEST_F(DatasetReaderTest, TellsLineAndByteOfEachKindOfError) {
  const std::string prefix = kGood + "\n";
  const auto base = static_cast<int64_t>(prefix.size());
  struct Case {
    std::string bad;
    const char* reason;
    int64_t offset;
  };
  const Case cases[] = {
      {"{\"prompt\": nope}", "JSON_MALFORMED", 12},
      {"{\"prompt\":\"a\",\"completion\":\"\xff\"}", "INVALID_UTF8", 28},
      {"{\"prompt\":\"a\",\"completion\":\"\xc0\xaf\"}", "INVALID_UTF8", 28},
      {"{\"prompt\":\"a\",\"completion\":\"\xed\xa0\x80\"}", "INVALID_UTF8", 28},
      {"", "EMPTY_LINE", 0},
      {"   ", "EMPTY_LINE", 0},
      {"[1]", "NOT_AN_OBJECT", 0},
      {"42", "NOT_AN_OBJECT", 0},
      {"{\"prompt\":\"a\"}", "FIELD_MISSING", 0},
      {"{\"prompt\":1,\"completion\":\"b\"}", "FIELD_TYPE", 0},
      {"{\"prompt\":null,\"completion\":\"b\"}", "FIELD_TYPE", 0},
      {"{\"instruction\":\"x\",\"output\":\"y\"}", "FIELD_MISSING", 0},
      {"{\"prompt\":\"a\",\"completion\":" + std::string(100, '[') + std::string(100, ']') + "}", "JSON_TOO_DEEP", 0},
  };
  for (const Case& c : cases) {
    const RecordError error = Only(prefix + c.bad + "\n" + kGood);
    EXPECT_EQ(error.reason, c.reason) << c.bad;
    EXPECT_EQ(error.line, 2) << c.bad;
    EXPECT_EQ(error.byte_offset, base + c.offset) << c.bad << ": " << error.message;
    EXPECT_EQ(stats_.records, 2) << c.bad;  // reading went on
  }
}

TEST_F(DatasetReaderTest, ChecksConversations) {
  EXPECT_EQ(Only(R"({"messages":[]})").reason, "MESSAGES_EMPTY");
  EXPECT_EQ(Only(R"({"messages":"x"})").reason, "FIELD_TYPE");
  EXPECT_EQ(Only(R"({"messages":["x"]})").reason, "FIELD_TYPE");
  EXPECT_EQ(Only(R"({"messages":[{"role":"user"}]})").reason, "FIELD_MISSING");
  EXPECT_EQ(Only(R"({"messages":[{"role":"robot","content":"x"}]})").reason, "ROLE_UNKNOWN");
  EXPECT_EQ(Only(R"({"messages":[{"role":"user","content":"x"}]})").reason, "NO_ASSISTANT_MESSAGE");
  EXPECT_EQ(Only(R"({"conversations":[]})").reason, "FORMAT_UNKNOWN");
}

TEST_F(DatasetReaderTest, LimitsLinesAndGoesOn) {
  const std::string huge = R"({"prompt":")" + std::string(5'000'000, 'x') + R"(","completion":"b"})";
  const RecordError error = Only(kGood + "\n" + huge + "\n" + kGood);
  EXPECT_EQ(error.reason, "LINE_TOO_LONG");
  EXPECT_EQ(error.line, 2);
  EXPECT_EQ(stats_.records, 2);
  EXPECT_EQ(ReadAll(huge, {.format = DatasetFormat::kAuto, .max_line_bytes = kMaxLineBytesLimit}).size(), 1u);
  EXPECT_EQ(DatasetReader::Open(dir_.path() / "data", {.max_line_bytes = kMaxLineBytesLimit + 1}).status().reason(),
            "LINE_LIMIT_OUT_OF_RANGE");
  EXPECT_EQ(DatasetReader::Open(dir_.path() / "absent", {}).status().code(), StatusCode::kNotFound);
}

TEST_F(DatasetReaderTest, BrokenArraysEndTheFile) {
  for (const std::string& text :
       {"[" + kGood, "[" + kGood + " " + kGood + "]", "[" + kGood + ",]", "[" + kGood + "] x", std::string("["),
        "[" + kGood + ",{\"prompt\":\"", std::string("[,") + kGood + "]", std::string("[{]}]")}) {
    ReadAll(text);
    EXPECT_GE(stats_.bad_records, 1) << text;
  }
}

TEST_F(DatasetReaderTest, KeepsTheFirstErrorsAndCountsAll) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "x\n";
  ReadAll(text, {.format = DatasetFormat::kAuto, .max_line_bytes = 100, .max_errors = 3});
  EXPECT_EQ(stats_.bad_records, 100);
  EXPECT_EQ(stats_.errors.size(), 3u);
  const Status status = ToStatus(stats_, "train.jsonl");
  EXPECT_EQ(status.reason(), "DATASET_INVALID");
  EXPECT_THAT(status.message(), HasSubstr("train.jsonl: 100 of 100 records are bad"));
  EXPECT_THAT(status.message(), HasSubstr("line 2, byte 2"));
  EXPECT_THAT(status.message(), HasSubstr("and 97 more"));
}

}  // namespace
}  // namespace sbora::data
