#include "core/model_import.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/model_folder.h"
#include "tests/unit/core/gguf_builder.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using testing::GgufBuilder;
using testing::NewTempDirectory;
using testing::SeededBytes;
using testing::TinyConfig;
using testing::WriteTinyModel;

class ModelImportTest : public ::testing::Test {
 protected:
  TempDirectory dir_ = NewTempDirectory();
  fs::path source_ = dir_.path() / "source";
  fs::path out_ = dir_.path() / "out";
};

TEST_F(ModelImportTest, HfFolderKeepsTensorsAndHashWhateverTheShards) {
  WriteTinyModel(source_, TinyConfig(DType::kBF16));
  int64_t last = 0;
  int hashed = 0;
  const auto model = ImportModel(source_, out_, {.max_shard_bytes = 1000,
                                                 .progress = [&](int64_t done, int64_t total) {
                                                   EXPECT_EQ(total, 20);
                                                   // After the last was written each is hashed: a sign of life too.
                                                   if (last == 20) return static_cast<void>(++hashed);
                                                   EXPECT_EQ(done, ++last);
                                                 },
                                                 .cancelled = {}});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(last, 20);
  EXPECT_EQ(hashed, 20);
  EXPECT_TRUE(fs::exists(out_ / "model.safetensors.index.json"));
  EXPECT_FALSE(model->has_chat_template);
  const auto before = ModelFolder::Open(source_);
  const auto after = ModelFolder::Open(out_);
  ASSERT_TRUE(after.ok()) << after.status();
  EXPECT_GT(after->shards().size(), 2u);
  EXPECT_EQ(before->ComputeBaseHash(), model->base_hash);
  EXPECT_EQ(after->config(), TinyConfig(DType::kBF16));
}

TEST_F(ModelImportTest, BaseHashSeesEveryBit) {
  WriteTinyModel(source_, TinyConfig());
  const std::string hash = ModelFolder::Open(source_)->ComputeBaseHash();
  std::string bytes = ReadFile(source_ / "model.safetensors", 1 << 20).value();
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  ASSERT_TRUE(WriteFileAtomic(source_ / "model.safetensors", bytes).ok());
  EXPECT_NE(ModelFolder::Open(source_)->ComputeBaseHash(), hash);
}

TEST_F(ModelImportTest, RefusesBadSources) {
  EXPECT_EQ(ImportModel(source_, out_).status().reason(), "SOURCE_NOT_FOUND");
  fs::create_directories(source_);
  EXPECT_EQ(ImportModel(source_, out_).status().reason(), "MODEL_FILE_MISSING");
  ASSERT_TRUE(WriteFileAtomic(source_ / "pytorch_model.bin", "x").ok());
  EXPECT_EQ(ImportModel(source_, out_).status().reason(), "PICKLE_REFUSED");
  ASSERT_TRUE(WriteFileAtomic(source_ / "model.safetensors", std::string("PK\x03\x04zip", 7)).ok());
  EXPECT_EQ(ImportModel(source_, out_).status().reason(), "PICKLE_REFUSED");
  ASSERT_TRUE(WriteFileAtomic(dir_.path() / "model.pt", std::string("\x80\x02xx", 4)).ok());
  EXPECT_EQ(ImportModel(dir_.path() / "model.pt", out_).status().reason(), "PICKLE_REFUSED");
  ASSERT_TRUE(WriteFileAtomic(dir_.path() / "readme.txt", "hello").ok());
  EXPECT_EQ(ImportModel(dir_.path() / "readme.txt", out_).status().reason(), "SOURCE_UNKNOWN_FORMAT");
}

TEST_F(ModelImportTest, RefusesFoldersThatDoNotFitTheirConfig) {
  WriteTinyModel(source_, TinyConfig());
  fs::remove(source_ / "tokenizer.json");
  EXPECT_EQ(ImportModel(source_, out_).status().reason(), "MODEL_FILE_MISSING");
  ModelConfig wider = TinyConfig();
  wider.intermediate_size = 32;
  ASSERT_TRUE(WriteFileAtomic(source_ / "config.json", ToHfConfigJson(wider)).ok());
  EXPECT_EQ(ModelFolder::Open(source_).status().reason(), "MODEL_TENSOR_SHAPE");
  ModelConfig deeper = TinyConfig();
  deeper.num_layers = 3;
  ASSERT_TRUE(WriteFileAtomic(source_ / "config.json", ToHfConfigJson(deeper)).ok());
  EXPECT_EQ(ModelFolder::Open(source_).status().reason(), "MODEL_TENSOR_MISSING");
  ModelConfig shallower = TinyConfig();
  shallower.num_layers = 1;
  ASSERT_TRUE(WriteFileAtomic(source_ / "config.json", ToHfConfigJson(shallower)).ok());
  EXPECT_EQ(ModelFolder::Open(source_).status().reason(), "MODEL_TENSOR_UNEXPECTED");
  ASSERT_TRUE(WriteFileAtomic(source_ / "model.safetensors.index.json", R"({"weight_map":{"a":"../evil"}})").ok());
  EXPECT_EQ(ModelFolder::Open(source_).status().reason(), "MODEL_INDEX_MALFORMED");
}

TEST_F(ModelImportTest, NamesTheFileThatIsNoJsonObject) {
  WriteTinyModel(source_, TinyConfig());
  for (const auto& [name, text] :
       {std::pair("tokenizer.json", "{\"model\": "), std::pair("tokenizer_config.json", "[]"),
        std::pair("generation_config.json", ""), std::pair("special_tokens_map.json", "null")}) {
    const fs::path file = source_ / name;
    const std::string before = fs::exists(file) ? ReadFile(file, 1 << 20).value() : "{}";
    ASSERT_TRUE(WriteFileAtomic(file, text).ok());
    const Status status = ImportModel(source_, dir_.path() / std::string("out-").append(name)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << name;
    EXPECT_EQ(status.reason(), "MODEL_FILE_MALFORMED") << status;
    EXPECT_THAT(status.message(), ::testing::HasSubstr(file.string() + " is no JSON object of at most 64 levels; save"));
    ASSERT_TRUE(WriteFileAtomic(file, before).ok());
  }
}

TEST_F(ModelImportTest, RefusesAFullOutputAndObeysCancel) {
  WriteTinyModel(source_, TinyConfig());
  fs::create_directories(out_);
  ASSERT_TRUE(WriteFileAtomic(out_ / "x", "x").ok());
  EXPECT_EQ(ImportModel(source_, out_).status().reason(), "OUTPUT_NOT_EMPTY");
  const auto cancelled = ImportModel(source_, dir_.path() / "other",
                                     {.max_shard_bytes = 1 << 20, .progress = {}, .cancelled = [] { return true; }});
  EXPECT_EQ(cancelled.status().code(), StatusCode::kCancelled);
}

TEST_F(ModelImportTest, GenerationConfigAddsEndTokens) {
  WriteTinyModel(source_, TinyConfig());
  ASSERT_TRUE(WriteFileAtomic(source_ / "generation_config.json", R"({"eos_token_id":[2,5,99]})").ok());
  ASSERT_TRUE(WriteFileAtomic(source_ / "chat_template.jinja", "{{ messages }}").ok());
  const auto model = ImportModel(source_, out_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT(model->config.eos_token_ids, ::testing::ElementsAre(2, 5));
  EXPECT_TRUE(model->has_chat_template);
}

/// llama.cpp's permutation of q and k rows, written the other way round than the importer's.
std::string PermuteRows(const std::vector<std::byte>& data, int64_t heads, int64_t head_dim, size_t row_bytes) {
  std::string out;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t j = 0; j < head_dim / 2; ++j) {
      for (int64_t half = 0; half < 2; ++half) {
        const auto row = static_cast<size_t>(head * head_dim + half * head_dim / 2 + j);
        out.append(reinterpret_cast<const char*>(data.data()) + row * row_bytes, row_bytes);
      }
    }
  }
  return out;
}

GgufBuilder TinyGguf(const ModelConfig& config) {
  GgufBuilder builder;
  builder.String("general.architecture", "llama").Int("llama.block_count", 2).Int("llama.context_length", 64);
  builder.Int("llama.embedding_length", 16).Int("llama.feed_forward_length", 24).Int("llama.attention.head_count", 4);
  builder.Int("llama.attention.head_count_kv", 2).Float("llama.rope.freq_base", 10000.0f);
  builder.Float("llama.attention.layer_norm_rms_epsilon", 1e-6f);
  builder.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "smollm");
  builder.Strings("tokenizer.ggml.tokens", {"<end>", "<begin>", "<eot>", "a", "b", "ab"});
  builder.Ints("tokenizer.ggml.token_type", {3, 3, 3, 1, 1, 1}).Strings("tokenizer.ggml.merges", {"a b"});
  builder.Int("tokenizer.ggml.bos_token_id", 1).Int("tokenizer.ggml.eos_token_id", 2);
  builder.String("tokenizer.chat_template", "{{ messages }}");
  const char* gguf_names[][2] = {{"self_attn.q_proj", "attn_q"},   {"self_attn.k_proj", "attn_k"},
                                 {"self_attn.v_proj", "attn_v"},   {"self_attn.o_proj", "attn_output"},
                                 {"mlp.gate_proj", "ffn_gate"},    {"mlp.up_proj", "ffn_up"},
                                 {"mlp.down_proj", "ffn_down"},    {"input_layernorm", "attn_norm"},
                                 {"post_attention_layernorm", "ffn_norm"}};
  for (const TensorSpec& spec : ExpectedTensors(config)) {
    std::string name = spec.name;
    if (name == "model.embed_tokens.weight") name = "token_embd.weight";
    if (name == "model.norm.weight") name = "output_norm.weight";
    for (const auto& [hf, gguf] : gguf_names) {
      if (const size_t at = name.find(hf); at != std::string::npos) {
        name = "blk." + name.substr(13, 2) + gguf + ".weight";
      }
    }
    const auto bytes = SeededBytes(spec);
    std::string data(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (spec.name.ends_with("q_proj.weight")) data = PermuteRows(bytes, 4, 4, 64);
    if (spec.name.ends_with("k_proj.weight")) data = PermuteRows(bytes, 2, 4, 64);
    std::vector<int64_t> extents(spec.shape.rbegin(), spec.shape.rend());
    builder.Tensor(name, 0, extents, data);
  }
  return builder;
}

TEST_F(ModelImportTest, GgufGivesTheSameModelAsTheFolderItCameFrom) {
  WriteTinyModel(source_, TinyConfig());
  const std::string hash = ModelFolder::Open(source_)->ComputeBaseHash();
  const fs::path file = dir_.path() / "tiny.gguf";
  ASSERT_TRUE(WriteFileAtomic(file, TinyGguf(TinyConfig()).Build()).ok());
  const auto model = ImportModel(file, out_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->base_hash, hash);
  EXPECT_EQ(model->config, TinyConfig());
  EXPECT_TRUE(model->has_chat_template);
  const auto tokenizer = nlohmann::json::parse(ReadFile(out_ / "tokenizer.json", 1 << 20).value());
  EXPECT_EQ(tokenizer["model"]["vocab"]["ab"], 5);
  EXPECT_EQ(tokenizer["added_tokens"].size(), 3u);
  EXPECT_EQ(tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"], "Digits");
  const auto config = nlohmann::json::parse(ReadFile(out_ / "tokenizer_config.json", 1 << 20).value());
  EXPECT_EQ(config["eos_token"], "<eot>");
  EXPECT_EQ(config["chat_template"], "{{ messages }}");
}

TEST_F(ModelImportTest, GgufWithOtherTokenizersOrArchitecturesIsRefused) {
  const fs::path file = dir_.path() / "x.gguf";
  const std::string good = TinyGguf(TinyConfig()).Build();
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string bytes = good;
    bytes.replace(bytes.find(from), from.size(), to);
    EXPECT_TRUE(WriteFileAtomic(file, bytes).ok());
    const auto model = ImportModel(file, dir_.path() / ("out-" + to));
    return model.ok() ? std::string("ok") : model.status().reason();
  };
  EXPECT_EQ(replaced("gpt2", "bert"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(replaced("smollm", "qwen42"), "TOKENIZER_UNSUPPORTED");
  EXPECT_EQ(replaced("a b", "a c"), "TOKENIZER_MALFORMED");
  EXPECT_EQ(replaced("blk.1.attn_q.weight", "blk.1.attn_x.weight"), "MODEL_TENSOR_MISSING");
  const size_t at = good.find("llama", good.find("general.architecture"));
  std::string bytes = good;
  bytes.replace(at, 5, "qwen2");
  ASSERT_TRUE(WriteFileAtomic(file, bytes).ok());
  EXPECT_EQ(ImportModel(file, out_).status().reason(), "ARCHITECTURE_UNSUPPORTED");
}

// The real file, when SBORA_TEST_GGUF names it (scripts/setup knows where it is).
TEST_F(ModelImportTest, SmolLm2) {
  const char* path = std::getenv("SBORA_TEST_GGUF");
  if (path == nullptr) GTEST_SKIP() << "SBORA_TEST_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf";
  const auto model = ImportModel(path, out_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(ExpectedTensors(model->config).size(), 272u);
  EXPECT_EQ(model->parameter_count, 134'515'008);
  EXPECT_EQ(model->config.rope_theta, 100000.0);
  EXPECT_EQ(model->config.rms_norm_eps, 1e-5);
  EXPECT_EQ(model->base_hash, "43f49a494e7286c17ca39fa50484e3a050d976269ac3cea8de856e0bf6f5d29c");
}

}  // namespace
}  // namespace sbora::core
