#include "common/ffi/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "common/file.h"

namespace sbora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A byte-level BPE of ten entries, with saved truncation and padding that must not matter.
constexpr char kByteLevel[] = R"({
  "version": "1.0",
  "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
  "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
              "pad_type_id": 0, "pad_token": "<s>"},
  "added_tokens": [
    {"id": 8, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
     "special": true},
    {"id": 9, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
     "special": true}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [8], "tokens": ["<s>"]}}},
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "abc": 5, "Ġa": 6, "Ċ": 7},
            "merges": ["a b", "ab c", "Ġ a"]}
})";

std::unique_ptr<Tokenizer> Load(std::string_view json = kByteLevel) {
  auto tokenizer = Tokenizer::FromJson(json);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? std::move(tokenizer).value() : nullptr;
}

std::vector<int32_t> Ids(const Tokenizer& tokenizer, std::string_view text, bool special = false) {
  auto ids = tokenizer.Encode(text, special);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.ok() ? *ids : std::vector<int32_t>{-1};
}

TEST(TokenizerTest, AppliesMergesInOrder) {
  const auto tokenizer = Load();
  EXPECT_THAT(Ids(*tokenizer, "abc"), ElementsAre(5));
  EXPECT_THAT(Ids(*tokenizer, "ab ac\n"), ElementsAre(4, 6, 2, 7));
  EXPECT_THAT(Ids(*tokenizer, "cba"), ElementsAre(2, 1, 0));
  EXPECT_THAT(Ids(*tokenizer, ""), IsEmpty());
}

TEST(TokenizerTest, TellsWhereEachTokenEnds) {
  const auto tokenizer = Load();
  const auto encoding = tokenizer->EncodeWithEnds("ab ac\n", true);
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  EXPECT_EQ(encoding->ids, Ids(*tokenizer, "ab ac\n", true));
  EXPECT_THAT(encoding->ends, ElementsAre(0, 2, 4, 5, 6)) << "the first stands for no text";
  EXPECT_EQ(tokenizer->EncodeWithEnds("\xff", true).status().reason(), "INVALID_UTF8");
}

TEST(TokenizerTest, ATextThatEndsCannotBeCountedInIsRefused) {
  const auto folder = TempDirectory::Create(std::filesystem::temp_directory_path(), "tokenizer");
  ASSERT_TRUE(folder.ok()) << folder.status();
  const std::filesystem::path file = folder->path() / "text";
  std::ofstream(file).put('a');
  std::filesystem::resize_file(file, uintmax_t{1} << 31);  // all holes
  const auto text = MappedFile::Open(file);
  ASSERT_TRUE(text.ok()) << text.status();
  const auto* begin = reinterpret_cast<const char*>(text->bytes().data());
  const Status status = Load()->EncodeWithEnds({begin, text->bytes().size()}, true).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.reason(), "TEXT_TOO_LONG");
  EXPECT_THAT(status.message(), HasSubstr("2147483648 bytes"));
  EXPECT_THAT(status.message(), HasSubstr("split it"));
}

TEST(TokenizerTest, IgnoresSavedTruncationAndPadding) {
  EXPECT_THAT(Ids(*Load(), "cbcbcbcb"), ElementsAre(2, 1, 2, 1, 2, 1, 2, 1));
}

TEST(TokenizerTest, SpecialTokensOnRequestAndInText) {
  const auto tokenizer = Load();
  EXPECT_THAT(Ids(*tokenizer, "abc", true), ElementsAre(8, 5));
  EXPECT_THAT(Ids(*tokenizer, "", true), ElementsAre(8));
  EXPECT_THAT(Ids(*tokenizer, "ab</s>c"), ElementsAre(4, 9, 2));
}

TEST(TokenizerTest, DecodeDropsSpecialTokensOnRequest) {
  const auto tokenizer = Load();
  const std::vector<int32_t> ids = {8, 4, 6, 9};
  EXPECT_EQ(tokenizer->Decode(ids, true).value(), "ab a");
  EXPECT_EQ(tokenizer->Decode(ids, false).value(), "<s>ab a</s>");
  EXPECT_EQ(tokenizer->Decode({}, true).value(), "");
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{5, 123456}, true).value(), "abc");
  const auto negative = tokenizer->Decode(std::vector<int32_t>{0, -100}, true);
  EXPECT_EQ(negative.status().reason(), "TOKEN_ID_INVALID");
  EXPECT_THAT(negative.status().message(), HasSubstr("ids[1]=-100"));
}

TEST(TokenizerTest, LooksUpTokens) {
  const auto tokenizer = Load();
  EXPECT_EQ(tokenizer->TokenToId("</s>"), 9);
  EXPECT_EQ(tokenizer->TokenToId("abc"), 5);
  EXPECT_EQ(tokenizer->TokenToId("abcd"), std::nullopt);
  EXPECT_EQ(tokenizer->TokenToId("\xff"), std::nullopt);
  EXPECT_EQ(tokenizer->IdToToken(8), "<s>");
  EXPECT_EQ(tokenizer->IdToToken(10), std::nullopt);
  EXPECT_EQ(tokenizer->IdToToken(-1), std::nullopt);
  EXPECT_EQ(tokenizer->vocab_size(), 10);
}

TEST(TokenizerTest, BatchEqualsSingleCalls) {
  const auto tokenizer = Load();
  std::vector<std::string> texts;
  for (int i = 0; i < 200; ++i) texts.push_back(std::string(static_cast<size_t>(i % 7), 'a') + "bc a");
  const auto batch = tokenizer->EncodeBatch(texts, true);
  ASSERT_TRUE(batch.ok()) << batch.status();
  ASSERT_EQ(batch->size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ((*batch)[i], Ids(*tokenizer, texts[i], true)) << texts[i];
  EXPECT_THAT(tokenizer->EncodeBatch({}, true).value(), IsEmpty());
}

TEST(TokenizerTest, BadUtf8IsNamed) {
  const auto tokenizer = Load();
  const auto single = tokenizer->Encode("ab\xff", false);
  EXPECT_EQ(single.status().reason(), "INVALID_UTF8");
  EXPECT_THAT(single.status().message(), HasSubstr("byte 2"));
  const auto batch = tokenizer->EncodeBatch(std::vector<std::string>{"a", "\xc3"}, false);
  EXPECT_EQ(batch.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(batch.status().message(), HasSubstr("text 1 of the batch"));
}

TEST(TokenizerTest, SurvivesHostileText) {
  const auto tokenizer = Load();
  using std::string_literals::operator""s;
  const std::vector<std::string> texts = {
      "\0a\0"s,                                     // NULs inside
      std::string(100'000, ' ') + "a",              // what a backtracking regex dislikes
      std::string(50'000, 'a'),                     //
      "\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9",  // emoji with a joiner
      "\xe2\x80\xae\xef\xbb\xbf\xcc\x81\xcc\x81",      // direction mark, byte order mark, combining marks
      "<s><s></s><s", "\r\n\t\v\f",
  };
  for (const std::string& text : texts) EXPECT_TRUE(tokenizer->Encode(text, true).ok()) << text.size();
  EXPECT_THAT(Ids(*tokenizer, "\0a\0"s), ElementsAre(0));  // this vocabulary has no NUL
}

TEST(TokenizerTest, RefusesBrokenFiles) {
  for (const std::string_view json : {"", "{", "[]", "{}", "null", R"({"model": {"type": "Nonsense"}})"}) {
    const auto tokenizer = Tokenizer::FromJson(json);
    ASSERT_FALSE(tokenizer.ok()) << json;
    EXPECT_EQ(tokenizer.status().reason(), "TOKENIZER_INVALID");
    EXPECT_FALSE(tokenizer.status().message().empty());
  }
  const auto deep = Tokenizer::FromJson(std::string(200'000, '['));
  EXPECT_EQ(deep.status().reason(), "TOKENIZER_INVALID");
}

TEST(TokenizerTest, ManyThreadsShareOne) {
  const auto tokenizer = Load();
  const std::vector<std::string> texts(50, "abc ab a");
  const auto expected = Ids(*tokenizer, texts[0]);
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (const std::string& text : texts) EXPECT_EQ(Ids(*tokenizer, text), expected);
      EXPECT_TRUE(tokenizer->EncodeBatch(texts, false).ok());
    });
  }
}

}  // namespace
}  // namespace sbora
