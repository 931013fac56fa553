#include "core/gguf_export.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "core/gguf_llama.h"
#include "core/gguf_tokenizer.h"
#include "core/model_folder.h"
#include "core/model_import.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::NewTempDirectory;
using testing::SeededFloats;
using testing::TinyConfig;

/// A byte-level BPE of six tokens in a vocabulary of 32 rows.
Json TinyTokenizer(const std::string& pre = "smollm") {
  Json added = Json::array();
  for (const auto& [id, text, special] : {std::tuple{0, "<end>", true}, {1, "<begin>", true}, {2, "<eot>", true}, {6, "<tool>", false}}) {
    added.push_back({{"id", id}, {"content", text}, {"single_word", false}, {"lstrip", false}, {"rstrip", false},
                     {"normalized", false}, {"special", special}});
  }
  return {{"version", "1.0"},
          {"added_tokens", added},
          {"normalizer", nullptr},
          {"pre_tokenizer", GgufPreTokenizer(pre).value()},
          {"post_processor", nullptr},
          {"model",
           {{"type", "BPE"},
            {"byte_fallback", false},
            {"ignore_merges", pre == "llama-bpe"},
            {"vocab", {{"<end>", 0}, {"<begin>", 1}, {"<eot>", 2}, {"a", 3}, {"b", 4}, {"ab", 5}}},
            {"merges", Json::array({Json::array({"a", "b"})})}}}};
}

Json BosProcessor(const std::string& token) {
  return {{"type", "TemplateProcessing"},
          {"single", Json::array({{{"SpecialToken", {{"id", token}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}})}};
}

class GgufExportTest : public ::testing::Test {
 protected:
  void WriteModel(const ModelConfig& config, const Json& tokenizer = TinyTokenizer()) {
    testing::WriteTinyModel(model_, config);
    Put("tokenizer.json", tokenizer.dump());
    Put("tokenizer_config.json", R"({"eos_token":{"content":"<eot>"},"chat_template":"{{ messages }}"})");
  }
  void Put(const char* name, const std::string& text) { ASSERT_TRUE(WriteFileAtomic(model_ / name, text).ok()); }

  StatusOr<ExportedFolder> Export(GgufWeights weights, const char* out = "out") {
    return ExportGguf(model_, dir_.path() / out, {.weights = weights, .name = "tiny", .progress = {}, .cancelled = {}});
  }

  std::vector<float> ImportedFloats(const ModelFolder& folder, const TensorSpec& spec) {
    const auto view = folder.Tensor(spec.name);
    EXPECT_TRUE(view.ok()) << view.status();
    std::vector<float> values(static_cast<size_t>(view->elements()));
    EXPECT_TRUE(ToFloat(view->dtype, view->data, values).ok());
    return values;
  }

  TempDirectory dir_ = NewTempDirectory();
  fs::path model_ = dir_.path() / "model";
};

/// Widths that are whole blocks of 32.
ModelConfig BlockConfig(DType dtype = DType::kF32) {
  ModelConfig config = TinyConfig(dtype);
  config.hidden_size = 64;
  config.head_dim = 16;
  config.intermediate_size = 96;
  config.eos_token_ids = {0, 2};
  return config;
}

TEST_F(GgufExportTest, OurImporterReadsTheSameModelBack) {
  const ModelConfig config = BlockConfig(DType::kBF16);
  WriteModel(config);
  const auto exported = Export(GgufWeights::kF16);
  ASSERT_TRUE(exported.ok()) << exported.status();
  ASSERT_EQ(exported->files.size(), 1u);
  EXPECT_EQ(exported->files[0].name, "model-f16.gguf");
  const auto imported = ImportModel(dir_.path() / "out" / "model-f16.gguf", dir_.path() / "back");
  ASSERT_TRUE(imported.ok()) << imported.status();
  ModelConfig expected = config;
  expected.dtype = DType::kF16;
  expected.eos_token_ids = {2, 0};  // the tokenizer's own first
  EXPECT_EQ(imported->config, expected);
  EXPECT_TRUE(imported->has_chat_template);
  const auto folder = ModelFolder::Open(dir_.path() / "back");
  ASSERT_TRUE(folder.ok()) << folder.status();
  for (const TensorSpec& spec : ExpectedTensors(config)) {
    std::vector<float> wanted = SeededFloats(spec.name, testing::Elements(spec));
    for (float& value : wanted) value = F16ToFloat(FloatToF16(BF16ToFloat(FloatToBF16(value))));
    // Norms stay float32; bfloat16 values of this size are halves too, so that both agree.
    EXPECT_EQ(ImportedFloats(*folder, spec), wanted) << spec.name;
  }
  const Json tokenizer = Json::parse(ReadFile(dir_.path() / "back" / "tokenizer.json", 1 << 20).value());
  EXPECT_EQ(tokenizer["model"]["vocab"], Json({{"<end>", 0}, {"<begin>", 1}, {"<eot>", 2}, {"a", 3}, {"b", 4}, {"ab", 5}, {"<tool>", 6}}));
  EXPECT_EQ(tokenizer["model"]["merges"], Json::array({"a b"}));
  EXPECT_EQ(tokenizer["pre_tokenizer"], TinyTokenizer()["pre_tokenizer"]);
  EXPECT_EQ(tokenizer["added_tokens"][3]["special"], false);
}

TEST_F(GgufExportTest, Q8RowsAreTheRowsOfTheModelQuantised) {
  const ModelConfig config = BlockConfig();
  WriteModel(config);
  ASSERT_TRUE(Export(GgufWeights::kQ8_0).ok());
  const auto file = GgufFile::Open(dir_.path() / "out" / "model-q8_0.gguf");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->Int("general.file_type"), 7);
  for (const TensorSpec& spec : ExpectedTensors(config)) {
    const GgufTensor* tensor = file->Find(GgufTensorName(spec.name));
    ASSERT_NE(tensor, nullptr) << spec.name;
    const auto values = SeededFloats(spec.name, testing::Elements(spec));
    std::vector<std::byte> wanted;
    const auto columns = static_cast<size_t>(spec.shape.back());
    for (int64_t row = 0; row < testing::Elements(spec) / spec.shape.back(); ++row) {
      const auto from = static_cast<size_t>(HasPermutedRows(spec.name) ? HfRowOfGgufRow(row, config.head_dim) : row);
      const auto type = spec.shape.size() == 1 ? GgmlType::kF32 : GgmlType::kQ8_0;
      ASSERT_TRUE(EncodeGgml(type, std::span(values).subspan(from * columns, columns), wanted).ok());
    }
    EXPECT_TRUE(std::equal(tensor->data.begin(), tensor->data.end(), wanted.begin(), wanted.end())) << spec.name;
  }
}

TEST_F(GgufExportTest, Llama3ScalingAndBosSurvive) {
  ModelConfig config = BlockConfig();
  config.rope_theta = 500000.0;
  config.rope_scaling = {.type = RopeScalingType::kLlama3, .factor = 32.0, .low_freq_factor = 1.0, .high_freq_factor = 4.0,
                         .original_max_position_embeddings = 8192};
  config.tie_word_embeddings = false;
  config.eos_token_ids = {2};
  Json tokenizer = TinyTokenizer("llama-bpe");
  tokenizer["post_processor"] = BosProcessor("<begin>");
  WriteModel(config, tokenizer);
  ASSERT_TRUE(Export(GgufWeights::kF16).ok());
  const auto imported = ImportModel(dir_.path() / "out" / "model-f16.gguf", dir_.path() / "back");
  ASSERT_TRUE(imported.ok()) << imported.status();
  config.dtype = DType::kF16;
  EXPECT_EQ(imported->config, config);
  const Json settings = Json::parse(ReadFile(dir_.path() / "back" / "tokenizer_config.json", 1 << 20).value());
  EXPECT_EQ(settings["add_bos_token"], true);
}

TEST_F(GgufExportTest, LinearScalingSurvives) {
  ModelConfig config = BlockConfig();
  config.rope_scaling = {.type = RopeScalingType::kLinear, .factor = 2.5};
  config.eos_token_ids = {2};
  WriteModel(config);
  ASSERT_TRUE(Export(GgufWeights::kF16).ok());
  const auto imported = ImportModel(dir_.path() / "out" / "model-f16.gguf", dir_.path() / "back");
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->config.rope_scaling, config.rope_scaling);
}

TEST_F(GgufExportTest, TheSameModelGivesTheSameBytes) {
  WriteModel(BlockConfig());
  const auto first = Export(GgufWeights::kQ8_0, "one");
  const auto second = Export(GgufWeights::kQ8_0, "two");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->files, second->files);
}

TEST_F(GgufExportTest, RefusesWhatGgufCannotHold) {
  WriteModel(TinyConfig());  // rows of 16 and 24
  EXPECT_EQ(Export(GgufWeights::kQ8_0, "q8").status().reason(), "GGUF_ROW_LENGTH");
  EXPECT_TRUE(Export(GgufWeights::kF16, "f16").ok());
  EXPECT_EQ(Export(GgufWeights::kF16, "f16").status().reason(), "OUTPUT_NOT_EMPTY");
  const auto cancelled = ExportGguf(model_, dir_.path() / "stop", {.weights = GgufWeights::kF16, .name = "", .progress = {},
                                                                   .cancelled = [] { return true; }});
  EXPECT_EQ(cancelled.status().code(), StatusCode::kCancelled);
  EXPECT_TRUE(fs::is_empty(dir_.path() / "stop"));
}

struct TokenizerCase {
  const char* name;
  const char* patch;  ///< merged into a good tokenizer.json
  const char* reason;
};
class GgufTokenizerCase : public ::testing::TestWithParam<TokenizerCase> {};
TEST_P(GgufTokenizerCase, IsRefusedByName) {
  Json tokenizer = TinyTokenizer();
  tokenizer.merge_patch(Json::parse(GetParam().patch));
  GgufMetadata metadata;
  const Status status = GgufTokenizerMetadata(tokenizer.dump(), "{}", "", TinyConfig(), metadata);
  EXPECT_EQ(status.ok() ? "ok" : status.reason(), GetParam().reason) << status;
}
INSTANTIATE_TEST_SUITE_P(
    Tokenizers, GgufTokenizerCase,
    ::testing::Values(
        TokenizerCase{"Good", "{}", "ok"},
        TokenizerCase{"MergesAsText", R"({"model":{"merges":["a b"]}})", "ok"},
        TokenizerCase{"Unigram", R"({"model":{"type":"Unigram"}})", "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"Sentencepiece", R"({"model":{"byte_fallback":true},"pre_tokenizer":null})", "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"Normalizer", R"({"normalizer":{"type":"NFC"}})", "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"OtherSplit", R"({"pre_tokenizer":{"type":"Whitespace"}})", "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"IgnoreMerges", R"({"model":{"ignore_merges":true}})", "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"Prefix", R"({"model":{"continuing_subword_prefix":"##"}})", "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"Stripping", R"({"added_tokens":[{"id":6,"content":"<mask>","lstrip":true,"special":true}]})",
                      "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"OtherProcessor", R"({"post_processor":{"type":"BertProcessing"}})", "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"OtherBos", R"({"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<end>"}},{"Sequence":{"id":"A"}}]}})",
                      "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"TwoInFront", R"({"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<begin>"}},{"SpecialToken":{"id":"<end>"}},{"Sequence":{"id":"A"}}]}})",
                      "TOKENIZER_UNSUPPORTED"},
        TokenizerCase{"IdOutside", R"({"model":{"vocab":{"z":32}}})", "TOKENIZER_MALFORMED"},
        TokenizerCase{"SharedId", R"({"model":{"vocab":{"z":3}}})", "TOKENIZER_MALFORMED"},
        TokenizerCase{"NoMerges", R"({"model":{"merges":null}})", "TOKENIZER_MALFORMED"}),
    [](const auto& info) { return info.param.name; });

TEST(GgufTokenizerMetadata, NamesTooManyEndTokensAndBadJson) {
  ModelConfig config = TinyConfig();
  config.eos_token_ids = {2, 0, 1};
  GgufMetadata metadata;
  EXPECT_EQ(GgufTokenizerMetadata(TinyTokenizer().dump(), "{}", "", config, metadata).reason(), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(GgufTokenizerMetadata("{", "{}", "", config, metadata).reason(), "TOKENIZER_MALFORMED");
  const std::string deep = R"({"model": )" + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  EXPECT_EQ(GgufTokenizerMetadata(deep, "{}", "", config, metadata).reason(), "TOKENIZER_MALFORMED");
}

}  // namespace
}  // namespace sbora::core
