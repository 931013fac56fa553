#include "core/full_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "common/sha256.h"
#include "core/job_spec.h"
#include "core/merge.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

class FullCheckpointTest : public ::testing::TestWithParam<bool> {
 protected:
  FullCheckpointTest() : dir_(testing::NewTempDirectory()) {
    ModelConfig base = testing::TinyConfig(DType::kBF16);
    base.tie_word_embeddings = GetParam();
    testing::WriteTinyModel(Dir("base"), base);
    JobSpec spec;
    TrainAllWeights(spec.adapter);
    config_ = AdapterConfigOf(spec, base, "tiny", ModelFolder::Open(Dir("base"))->ComputeBaseHash());
  }

  fs::path Dir(const char* name) const { return dir_.path() / name; }
  /// Weights of their own, told apart from the base's by their dtype.
  StatusOr<ExportedFolder> Write(const fs::path& out, const ShardOptions& options = {}) const {
    fs::create_directories(out);
    return WriteFullCheckpoint(Dir("base"), out, config_, [](const TensorSpec& spec, const ByteSink& sink) {
      return sink(testing::SeededBytes(spec));
    }, options);
  }

  TempDirectory dir_;
  AdapterConfig config_;
};

TEST_P(FullCheckpointTest, IsAFloat32ModelFolderOfThePredictedSize) {
  const auto written = Write(Dir("out"));
  ASSERT_TRUE(written.ok()) << written.status();
  EXPECT_EQ(fs::file_size(Dir("out") / "model.safetensors"), static_cast<uintmax_t>(ArtifactBytes(config_)));
  std::vector<std::string> names;
  for (const WrittenFile& file : written->files) {
    names.push_back(file.name);
    EXPECT_EQ(file.sha256, Sha256Hex(ReadFile(Dir("out") / file.name, 1 << 20).value())) << file.name;
  }
  EXPECT_THAT(names, ::testing::ElementsAre("config.json", "model.safetensors", "sbora_config.json", "tokenizer.json"));
  const auto model = ModelFolder::Open(Dir("out"));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->config().dtype, DType::kF32);
  EXPECT_EQ(model->tensor_names().size(), ExpectedTensors(config_.base_config).size());
  EXPECT_NE(model->ComputeBaseHash(), config_.base_hash);
  const auto opened = OpenFullCheckpoint(Dir("out"), config_.base_hash);
  EXPECT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(*ReadAdapterConfig(Dir("out")), config_);
}

TEST_P(FullCheckpointTest, ShardsHaveAnIndexAndThePredictedSizeToo) {
  constexpr int64_t kShard = 8 << 10;
  ASSERT_TRUE(Write(Dir("out"), {.max_shard_bytes = kShard, .progress = {}, .cancelled = {}}).ok());
  int64_t bytes = 0;
  int shards = 0;
  for (const auto& entry : fs::directory_iterator(Dir("out"))) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("model")) continue;
    bytes += static_cast<int64_t>(entry.file_size());
    shards += name.ends_with(".safetensors") ? 1 : 0;
  }
  EXPECT_GT(shards, 2);
  EXPECT_EQ(bytes, *ModelShardsBytes(ExpectedAdapterTensors(config_), kShard));
  EXPECT_TRUE(OpenFullCheckpoint(Dir("out")).ok());
}

TEST_P(FullCheckpointTest, IsNoAdapterAndOfOneBase) {
  ASSERT_TRUE(Write(Dir("out")).ok());
  EXPECT_EQ(AdapterFolder::Open(Dir("out")).status().reason(), "FULL_CHECKPOINT");
  EXPECT_EQ(ExportPeft(Dir("out"), Dir("peft")).status().reason(), "FULL_CHECKPOINT");
  EXPECT_EQ(MergeAdapter(Dir("base"), Dir("out"), Dir("merged")).status().reason(), "FULL_CHECKPOINT");
  EXPECT_EQ(OpenFullCheckpoint(Dir("out"), std::string(64, 'b')).status().reason(), "BASE_HASH_MISMATCH");
  EXPECT_EQ(OpenFullCheckpoint(Dir("base")).status().reason(), "ADAPTER_FILE_MISSING");
}

TEST_P(FullCheckpointTest, FilesThatDoNotFitEachOtherAreRefused) {
  ASSERT_TRUE(Write(Dir("out")).ok());
  ModelConfig other = config_.base_config;
  other.rope_theta = 5;
  other.dtype = DType::kF32;
  ASSERT_TRUE(WriteFileAtomic(Dir("out") / "config.json", ToHfConfigJson(other)).ok());
  EXPECT_EQ(OpenFullCheckpoint(Dir("out")).status().reason(), "ADAPTER_TENSOR_MISMATCH");
  fs::rename(Dir("out") / "sbora_config.json", Dir("out") / "adapter_config.json");
  EXPECT_EQ(ReadAdapterConfig(Dir("out")).status().reason(), "ADAPTER_CONFIG_MALFORMED");
}

INSTANTIATE_TEST_SUITE_P(Heads, FullCheckpointTest, ::testing::Values(true, false),
                         [](const auto& info) { return info.param ? "Tied" : "Own"; });

}  // namespace
}  // namespace sbora::core
