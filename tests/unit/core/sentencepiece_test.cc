#include "core/sentencepiece.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "core/model_import.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

/// protobuf's wire format.
std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}
std::string Number(uint64_t field, uint64_t value) { return Varint(field << 3) + Varint(value); }
std::string Bytes(uint64_t field, const std::string& bytes) {
  return Varint(field << 3 | 2) + Varint(bytes.size()) + bytes;
}

std::string Piece(const std::string& text, float score, int type) {
  std::string fixed(4, '\0');
  std::memcpy(fixed.data(), &score, 4);
  return Bytes(1, Bytes(1, text) + Varint(2 << 3 | 5) + fixed + Number(3, static_cast<uint64_t>(type)));
}

struct Parts {
  std::string trainer = Number(3, 2) + Number(35, 1);            // BPE, byte fallback
  std::string normalizer = Bytes(1, "identity") + Number(4, 0);  // keeps white space
  std::string pieces = "";
};

std::string Model(const Parts& parts) {
  std::string pieces = Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + Piece("</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) pieces += Piece(fmt::format("<0x{:02X}>", byte), 0, 6);
  return pieces + parts.pieces + Bytes(2, parts.trainer) + Bytes(3, parts.normalizer);
}

constexpr const char* kConfig = R"({"add_bos_token":true})";

TEST(SentencePieceModel, IsReadFromTheWireFormat) {
  const auto model = ParseSentencePieceModel(Model({.pieces = Piece("ab", -1.5f, 1)}));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->vocabulary.tokens.size(), 260u);
  EXPECT_EQ(model->vocabulary.tokens.back(), "ab");
  EXPECT_EQ(model->vocabulary.scores.back(), -1.5f);
  EXPECT_EQ(model->vocabulary.types.front(), 2);
  EXPECT_EQ(model->model_type, 2);
  EXPECT_TRUE(model->byte_fallback);
  EXPECT_TRUE(model->add_dummy_prefix);
  EXPECT_FALSE(model->remove_extra_whitespaces);
  EXPECT_FALSE(model->normalizes);
}

TEST(SentencePieceModel, EveryTruncationIsSafe) {
  const std::string good = Model({.pieces = Piece("ab", -1, 1)});
  for (size_t size = 0; size < good.size(); ++size) {
    const auto model = ParseSentencePieceModel(std::string_view(good).substr(0, size));
    if (model.ok()) continue;  // cut between two fields
    EXPECT_EQ(model.status().reason(), "TOKENIZER_MALFORMED");
  }
  EXPECT_EQ(ParseSentencePieceModel("").status().reason(), "TOKENIZER_MALFORMED");
  EXPECT_EQ(ParseSentencePieceModel("\x0b").status().reason(), "TOKENIZER_MALFORMED");  // a group
  EXPECT_EQ(ParseSentencePieceModel(std::string(12, '\xff')).status().reason(), "TOKENIZER_MALFORMED");
}

TEST(SentencePieceMerges, BothOrdersAreThoseOfTransformers) {
  SentencePieceVocabulary v;
  v.tokens = {"a", "b", "aa", "aaa", "ab", "x\u00e9", "x", "\u00e9"};
  v.types.assign(8, 1);
  v.scores = {0, 0, -2, -1, -3, -1, 0, 0};
  EXPECT_THAT(SentencePieceMerges(v, MergeOrder::kById),
              ElementsAre(Pair("a", "a"), Pair("a", "aa"), Pair("aa", "a"), Pair("a", "b"), Pair("x", "\u00e9")));
  // Falling scores; of equal ones the longer left half first, then the earlier token.
  EXPECT_THAT(SentencePieceMerges(v, MergeOrder::kByScore),
              ElementsAre(Pair("aa", "a"), Pair("a", "aa"), Pair("x", "\u00e9"), Pair("a", "a"), Pair("a", "b")));
}

TEST(SentencePieceModel, RulesThatLlamaTokenizerDoesNotFollowAreRefused) {
  const auto reason = [](const Parts& parts) {
    const auto json = TokenizerJsonOfSentencePiece(Model(parts), kConfig);
    return json.ok() ? std::string("ok") : json.status().reason();
  };
  const Parts good;
  EXPECT_EQ(reason(good), "ok");
  for (const std::string& trainer : {Number(3, 1) + Number(35, 1), Number(3, 2), good.trainer + Number(24, 1)}) {
    EXPECT_EQ(reason({.trainer = trainer}), "TOKENIZER_UNSUPPORTED");
  }
  for (const std::string& more : {Number(4, 1), Number(3, 0), Number(5, 0), Bytes(2, "map")}) {
    EXPECT_EQ(reason({.normalizer = good.normalizer + more}), "TOKENIZER_UNSUPPORTED");
  }
  EXPECT_EQ(reason({.pieces = Piece("\xff", 0, 1)}), "TOKENIZER_MALFORMED");
  EXPECT_EQ(reason({.pieces = Piece("<s>", 0, 1)}), "TOKENIZER_MALFORMED");
}

TEST(SentencePieceImport, AFolderWithoutTokenizerJsonGetsOne) {
  const auto dir = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-core-test").value();
  ModelConfig config = testing::TinyConfig();
  config.vocab_size = 264;
  testing::WriteTinyModel(dir.path() / "in", config);
  std::filesystem::remove(dir.path() / "in" / "tokenizer.json");
  ASSERT_TRUE(WriteFileAtomic(dir.path() / "in" / "tokenizer.model", Model({.pieces = Piece("a", -1, 1)})).ok());
  ASSERT_TRUE(WriteFileAtomic(dir.path() / "in" / "tokenizer_config.json", kConfig).ok());
  const auto model = ImportModel(dir.path() / "in", dir.path() / "out");
  ASSERT_TRUE(model.ok()) << model.status();
  const auto json = nlohmann::json::parse(ReadFile(dir.path() / "out" / "tokenizer.json", 1 << 20).value());
  EXPECT_EQ(json["model"]["vocab"]["a"], 259);
  EXPECT_EQ(json["pre_tokenizer"]["prepend_scheme"], "first");
  EXPECT_EQ(json["added_tokens"].size(), 3u);
  EXPECT_FALSE(std::filesystem::exists(dir.path() / "out" / "tokenizer.model"));

  ASSERT_TRUE(WriteFileAtomic(dir.path() / "in" / "added_tokens.json", R"({"[PAD]":260})").ok());
  EXPECT_EQ(ImportModel(dir.path() / "in", dir.path() / "added").status().reason(), "TOKENIZER_UNSUPPORTED");
}

}  // namespace
}  // namespace sbora::core
