// sentencepiece tokenizers against transformers' LlamaTokenizer: same ids, and the same again through GGUF.
#include "core/sentencepiece.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "common/ffi/tokenizer.h"
#include "common/file.h"
#include "core/gguf.h"
#include "core/gguf_export.h"
#include "core/gguf_import.h"
#include "tests/unit/core/gguf_builder.h"

namespace sbora::data {
namespace {

using Json = nlohmann::json;
using core::SentencePieceModel;

const std::filesystem::path kGolden = std::filesystem::path(SBORA_SOURCE_DIR) / "tests/data/golden/sentencepiece";

class SentencePieceTest : public ::testing::Test {
 protected:
  Json Case(const std::string& name) const {
    for (const Json& entry : golden_["cases"]) {
      if (entry["name"] == name) return entry;
    }
    ADD_FAILURE() << name;
    return {};
  }

  void ExpectIds(const std::string& tokenizer_json, const Json& expected) const {
    const auto tokenizer = Tokenizer::FromJson(tokenizer_json);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    size_t ids = 0;
    for (size_t i = 0; i < golden_["texts"].size(); ++i) {
      const auto text = golden_["texts"][i].get<std::string>();
      const auto wanted = expected[i].get<std::vector<int32_t>>();
      EXPECT_EQ((*tokenizer)->Encode(text, true).value(), wanted) << "text " << i << ": " << text;
      const auto ends = (*tokenizer)->EncodeWithEnds(text, true).value();
      EXPECT_EQ(ends.ids, wanted);
      ids += wanted.size();
    }
    EXPECT_GT(ids, 3000u);
  }

  core::ModelConfig Config() const {
    core::ModelConfig config;
    config.vocab_size = static_cast<int64_t>(model_.vocabulary.tokens.size()) + 8;
    config.max_position_embeddings = 64;
    config.bos_token_id = 1;
    config.eos_token_ids = {2};
    return config;
  }

  StatusOr<core::TokenizerFiles> FromGguf(const std::string& bytes) {
    const auto path = dir_.path() / "model.gguf";
    SBORA_CHECK(WriteFileAtomic(path, bytes).ok(), "gguf");
    auto file = core::GgufFile::Open(path);
    if (!file.ok()) return file.status();
    return core::GgufTokenizer(*file, Config());
  }

  /// The model's pieces with other scores, and rows without a token behind them.
  std::string Gguf(const std::vector<float>& scores) const {
    std::vector<std::string> tokens = model_.vocabulary.tokens;
    std::vector<int32_t> types = model_.vocabulary.types;
    std::vector<float> all = scores;
    while (static_cast<int64_t>(tokens.size()) < Config().vocab_size) {
      tokens.push_back("[PAD" + std::to_string(tokens.size()) + "]");
      types.push_back(5);
      all.push_back(-1000);
    }
    return core::testing::GgufBuilder()
        .String("tokenizer.ggml.model", "llama")
        .Strings("tokenizer.ggml.tokens", tokens)
        .Floats("tokenizer.ggml.scores", all)
        .Ints("tokenizer.ggml.token_type", types)
        .Int("tokenizer.ggml.bos_token_id", 1)
        .Int("tokenizer.ggml.eos_token_id", 2)
        .Int("tokenizer.ggml.unknown_token_id", 0)
        .Build();
  }

  /// tokenizer.json as GGUF metadata, read back.
  StatusOr<core::TokenizerFiles> ThroughGguf(const core::TokenizerFiles& files) {
    core::GgufMetadata metadata;
    const Status status =
        core::GgufTokenizerMetadata(files.tokenizer_json, files.tokenizer_config_json, "", Config(), metadata);
    if (!status.ok()) return status;
    const auto path = dir_.path() / "exported.gguf";
    auto writer = core::GgufWriter::Create(path, metadata, {});
    if (!writer.ok()) return writer.status();
    auto written = (*writer)->Finish();
    if (!written.ok()) return written.status();
    return FromGguf(ReadFile(path, 1 << 24).value());
  }

  TempDirectory dir_ = TempDirectory::Create(std::filesystem::temp_directory_path(), "sbora-data-test").value();
  std::string bytes_ = ReadFile(kGolden / "tokenizer.model", 1 << 20).value();
  Json golden_ = Json::parse(ReadFile(kGolden / "ids.json", 1 << 24).value());
  SentencePieceModel model_ = core::ParseSentencePieceModel(bytes_).value();
};

TEST_F(SentencePieceTest, FoldersGiveTheIdsOfTransformers) {
  for (const char* name : {"default", "legacy", "without_bos", "with_pad"}) {
    SCOPED_TRACE(name);
    const Json expected = Case(name);
    const auto json = core::TokenizerJsonOfSentencePiece(bytes_, expected["config"].dump());
    ASSERT_TRUE(json.ok()) << json.status();
    ExpectIds(*json, expected["ids"]);
  }
}

TEST_F(SentencePieceTest, GgufFilesGiveTheIdsOfTransformers) {
  for (const char* name : {"gguf", "gguf_of_other_scores", "gguf_of_equal_scores"}) {
    SCOPED_TRACE(name);
    const Json expected = Case(name);
    const auto files = FromGguf(Gguf(expected["scores"].get<std::vector<float>>()));
    ASSERT_TRUE(files.ok()) << files.status();
    ExpectIds(files->tokenizer_json, expected["ids"]);
  }
}

TEST_F(SentencePieceTest, ExportedAndImportedAgainItIsTheSameTokenizer) {
  for (const char* name : {"gguf", "gguf_of_other_scores"}) {
    SCOPED_TRACE(name);
    const auto files = FromGguf(Gguf(Case(name)["scores"].get<std::vector<float>>()));
    ASSERT_TRUE(files.ok()) << files.status();
    const auto again = ThroughGguf(*files);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->tokenizer_json, files->tokenizer_json);
    EXPECT_EQ(again->tokenizer_config_json, files->tokenizer_config_json);
  }
  // Merges of equal scores are in an order that no scores give.
  const auto equal = FromGguf(Gguf(Case("gguf_of_equal_scores")["scores"].get<std::vector<float>>()));
  ASSERT_TRUE(equal.ok()) << equal.status();
  EXPECT_EQ(ThroughGguf(*equal).status().reason(), "TOKENIZER_UNSUPPORTED");
}

TEST_F(SentencePieceTest, TheScoresOfAnExportAreTheModelsOwn) {
  for (const char* name : {"default", "legacy", "with_pad"}) {
    SCOPED_TRACE(name);
    const Json config = Case(name)["config"];
    const auto json = core::TokenizerJsonOfSentencePiece(bytes_, config.dump());
    core::GgufMetadata metadata;
    const Status status = core::GgufTokenizerMetadata(*json, config.dump(), "", Config(), metadata);
    ASSERT_TRUE(status.ok()) << status;
    const auto path = dir_.path() / "exported.gguf";
    ASSERT_TRUE((*core::GgufWriter::Create(path, metadata, {}))->Finish().ok());
    const auto file = core::GgufFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(*file->String("tokenizer.ggml.model"), "llama");
    EXPECT_TRUE(*file->Bool("tokenizer.ggml.add_space_prefix"));
    EXPECT_TRUE(*file->Bool("tokenizer.ggml.add_bos_token"));
    const auto& scores = **file->Floats("tokenizer.ggml.scores");
    const auto& types = **file->Ints("tokenizer.ggml.token_type");
    for (size_t id = 0; id < model_.vocabulary.tokens.size(); ++id) {
      EXPECT_EQ(scores[id], model_.vocabulary.scores[id]) << id;
      EXPECT_EQ(types[id], model_.vocabulary.types[id]) << id;
    }
    EXPECT_EQ(types[model_.vocabulary.tokens.size()], name == std::string("with_pad") ? 3 : 5);
  }
}

TEST_F(SentencePieceTest, TheEndsOfTokensAreThoseOfTheText) {
  const auto json = core::TokenizerJsonOfSentencePiece(bytes_, Case("default")["config"].dump());
  const auto tokenizer = Tokenizer::FromJson(*json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::string text = "hi \U0001f642 there";  // the face is four byte tokens
  const auto encoding = (*tokenizer)->EncodeWithEnds(text, true);
  ASSERT_TRUE(encoding.ok()) << encoding.status();
  EXPECT_EQ(encoding->ends.back(), static_cast<int32_t>(text.size()));
  EXPECT_EQ(std::count(encoding->ends.begin(), encoding->ends.end(), 7), 4);
  EXPECT_EQ((*tokenizer)->Decode(encoding->ids, true).value(), text);
}

TEST_F(SentencePieceTest, WhatLlamaTokenizerDoesNotFollowIsRefused) {
  const auto reason = [&](const char* patch) {
    Json config = Case("default")["config"];
    config.merge_patch(Json::parse(patch));
    const auto json = core::TokenizerJsonOfSentencePiece(bytes_, config.dump());
    return json.ok() ? std::string("ok") : json.status().reason();
  };
  EXPECT_EQ(reason("{}"), "ok");
  EXPECT_EQ(reason(R"({"tokenizer_class":null})"), "ok");
  EXPECT_EQ(reason(R"({"add_bos_token":null})"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(reason(R"({"add_eos_token":true})"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(reason(R"({"tokenizer_class":"GemmaTokenizer"})"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(reason(R"({"add_prefix_space":false})"), "TOKENIZER_UNSUPPORTED");  // the model itself adds one
  EXPECT_EQ(reason(R"({"split_special_tokens":true})"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(reason(R"({"bos_token":{"content":"<s>","lstrip":true}})"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(reason(R"({"pad_token":"[NONE]"})"), "TOKENIZER_MALFORMED");
  EXPECT_EQ(reason(R"({"added_tokens_decoder":{"1":{"content":"<other>","special":true}}})"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(reason(R"({"added_tokens_decoder":{"9999":{"content":"<far>","special":true}}})"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(reason(R"({"added_tokens_decoder":{"x":{"content":"<far>"}}})"), "TOKENIZER_MALFORMED");
  EXPECT_EQ(reason(R"({"additional_special_tokens":["<a>"]})"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(core::TokenizerJsonOfSentencePiece(bytes_, "").status().reason(), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(core::TokenizerJsonOfSentencePiece(bytes_, "[").status().reason(), "TOKENIZER_MALFORMED");
}

TEST_F(SentencePieceTest, GgufFilesThatLackSomethingAreRefused) {
  const Json scores = Case("gguf")["scores"];
  const auto reason = [&](auto change) {
    SentencePieceModel kept = model_;
    std::vector<float> own = scores.get<std::vector<float>>();
    change(model_.vocabulary, own);
    const auto files = FromGguf(Gguf(own));
    model_ = kept;
    return files.ok() ? std::string("ok") : files.status().reason();
  };
  EXPECT_EQ(reason([](auto&, auto&) {}), "ok");
  EXPECT_EQ(reason([](auto& v, auto&) { v.tokens[200] = "<0x00>"; }), "TOKENIZER_MALFORMED");  // twice
  EXPECT_EQ(reason([](auto& v, auto&) { v.tokens[200] = "gone"; }), "TOKENIZER_UNSUPPORTED");  // a byte is missing
  EXPECT_EQ(reason([](auto& v, auto&) { v.tokens[0] = "<unknown>"; }), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(reason([](auto& v, auto&) { v.tokens.back() = std::string(600, 'x'); }), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(reason([](auto& v, auto&) { v.tokens.back() = "\xff"; }), "TOKENIZER_MALFORMED");
  EXPECT_EQ(reason([](auto&, auto& s) { s[300] = std::numeric_limits<float>::quiet_NaN(); }), "TOKENIZER_MALFORMED");
  EXPECT_EQ(reason([](auto&, auto& s) { s.pop_back(); }), "TOKENIZER_MALFORMED");
}

}  // namespace
}  // namespace sbora::data
