#include "core/nf4_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <limits>

#include "core/manifest.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TinyConfig;

/// Not NF4 (that is kernels/nf4's): bytes of the right sizes that depend on the weight.
StatusOr<Nf4Parts> Fake(const TensorView& weight, bool double_quantization) {
  const auto elements = static_cast<size_t>(weight.elements());
  const size_t blocks = (elements + 63) / 64;
  Nf4Parts parts;
  for (size_t i = 0; i < (elements + 1) / 2; ++i) parts.codes.push_back(static_cast<uint8_t>(weight.data[i]));
  if (!double_quantization) {
    parts.scales.assign(blocks, static_cast<float>(elements));
    return parts;
  }
  parts.scale_codes.assign(blocks, 9);
  parts.group_scales.assign((blocks + 255) / 256, 0.25f);
  parts.offset = {static_cast<float>(elements)};
  return parts;
}

class Nf4ModelTest : public ::testing::TestWithParam<bool> {
 protected:
  Nf4ModelTest() { testing::WriteTinyModel(base_dir(), TinyConfig(DType::kBF16)); }
  fs::path base_dir() const { return temp_.path() / "base"; }

  StatusOr<Nf4Config> Write(const std::string& name, Nf4WriteOptions options = {}) {
    auto base = ModelFolder::Open(base_dir());
    SBORA_CHECK(base.ok(), "{}", base.status().ToString());
    options.double_quantization = GetParam();
    return WriteNf4Model(*base, temp_.path() / name,
                         [&](const TensorView& weight) { return Fake(weight, GetParam()); }, options);
  }
  /// Changes the file behind the manifest's back, or with it.
  void Overwrite(const fs::path& file, std::streamoff at, const std::string& bytes, bool sign) {
    std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
    out.seekp(at);
    out << bytes;
    out.close();
    if (!sign) return;
    const auto manifest = BuildManifest(file.parent_path(), nlohmann::json::object());
    ASSERT_TRUE(manifest.ok() && WriteManifest(file.parent_path(), *manifest).ok());
  }

  TempDirectory temp_ = testing::NewTempDirectory();
};
INSTANTIATE_TEST_SUITE_P(DoubleQuantization, Nf4ModelTest, ::testing::Bool());

TEST_P(Nf4ModelTest, WhatWasWrittenIsReadBack) {
  const auto written = Write("nf4");
  ASSERT_TRUE(written.ok()) << written.status().ToString();
  const auto base = ModelFolder::Open(base_dir());
  EXPECT_EQ(written->base_hash, base->ComputeBaseHash());
  const auto folder = Nf4ModelFolder::Open(temp_.path() / "nf4");
  ASSERT_TRUE(folder.ok()) << folder.status().ToString();
  EXPECT_EQ(folder->config(), *written);
  EXPECT_EQ(folder->config().model, TinyConfig(DType::kBF16));
  for (const TensorSpec& spec : ExpectedTensors(TinyConfig())) {
    if (spec.name.find("_proj") != std::string::npos) {
      EXPECT_FALSE(folder->Tensor(spec.name).ok()) << spec.name;
      continue;
    }
    const auto ours = folder->Tensor(spec.name);
    const auto theirs = base->Tensor(spec.name);
    ASSERT_TRUE(ours.ok()) << spec.name;
    EXPECT_EQ(ours->dtype, DType::kBF16);
    EXPECT_TRUE(std::ranges::equal(ours->data, theirs->data)) << spec.name;
  }
  for (const LinearModule module : kAllLinearModules) {
    const auto parts = folder->Weight(1, module);
    const auto expected = Fake(*base->Tensor(ModulePath(1, module) + ".weight"), GetParam());
    ASSERT_TRUE(parts.ok()) << parts.status().ToString();
    EXPECT_EQ(parts->codes, expected->codes);
    EXPECT_EQ(parts->scales, expected->scales);
    EXPECT_EQ(parts->scale_codes, expected->scale_codes);
    EXPECT_EQ(parts->group_scales, expected->group_scales);
    EXPECT_EQ(parts->offset, expected->offset);
  }
}

TEST_P(Nf4ModelTest, TheSameBaseGivesTheSameBytesInAnyShards) {
  ASSERT_TRUE(Write("a").ok());
  ASSERT_TRUE(Write("b").ok());
  EXPECT_EQ(ReadManifest(temp_.path() / "a")->files, ReadManifest(temp_.path() / "b")->files);
  ASSERT_TRUE(Write("sharded", {.max_shard_bytes = 2000}).ok());
  const auto whole = Nf4ModelFolder::Open(temp_.path() / "a");
  const auto sharded = Nf4ModelFolder::Open(temp_.path() / "sharded");
  ASSERT_TRUE(sharded.ok()) << sharded.status().ToString();
  EXPECT_GT(sharded->shards().size(), 1u);
  EXPECT_EQ(whole->Weight(0, LinearModule::kDown)->codes, sharded->Weight(0, LinearModule::kDown)->codes);
}

TEST_P(Nf4ModelTest, PlainAndNf4FoldersAreNotTakenForEachOther) {
  ASSERT_TRUE(Write("nf4").ok());
  EXPECT_EQ(ModelFolder::Open(temp_.path() / "nf4").status().reason(), "QUANTIZED_CHECKPOINT_UNSUPPORTED");
  const Status plain = Nf4ModelFolder::Open(base_dir()).status();
  EXPECT_EQ(plain.reason(), "NF4_CONFIG_MALFORMED");
  EXPECT_THAT(plain.message(), HasSubstr("no NF4 base"));
  EXPECT_EQ(Nf4ModelFolder::Open(temp_.path() / "absent").status().reason(), "MODEL_FILE_MISSING");
}

TEST_P(Nf4ModelTest, DamageIsDataLoss) {
  ASSERT_TRUE(Write("nf4").ok());
  const fs::path file = temp_.path() / "nf4" / "model.safetensors";
  Overwrite(file, static_cast<std::streamoff>(fs::file_size(file)) - 3, "x", false);
  const Status flipped = Nf4ModelFolder::Open(temp_.path() / "nf4").status();
  EXPECT_EQ(flipped.code(), StatusCode::kDataLoss);
  EXPECT_EQ(flipped.reason(), "MANIFEST_HASH_MISMATCH");
  fs::resize_file(file, fs::file_size(file) - 1);
  EXPECT_EQ(Nf4ModelFolder::Open(temp_.path() / "nf4").status().reason(), "MANIFEST_SIZE_MISMATCH");
  fs::remove(temp_.path() / "nf4" / "manifest.json");
  EXPECT_EQ(Nf4ModelFolder::Open(temp_.path() / "nf4").status().reason(), "NF4_DAMAGED");
}

TEST_P(Nf4ModelTest, ScalesOutOfRangeAndOtherTensorsAreRefusedByName) {
  ASSERT_TRUE(Write("nf4").ok());
  const fs::path dir = temp_.path() / "nf4";
  {
    const auto file = SafetensorsFile::Open(dir / "model.safetensors");
    const auto view = file->Tensor("model.layers.1.mlp.up_proj." + std::string(GetParam() ? "nf4_offset" : "nf4_scales"));
    ASSERT_TRUE(view.ok());
    // The data section begins where the tensor that lies first does.
    const std::byte* start = view->data.data();
    for (const TensorView& other : file->tensors()) start = std::min(start, other.data.data());
    int64_t data_bytes = 0;
    for (const TensorView& other : file->tensors()) data_bytes += static_cast<int64_t>(other.data.size());
    const auto at = static_cast<int64_t>(fs::file_size(dir / "model.safetensors")) - data_bytes + (view->data.data() - start);
    Overwrite(dir / "model.safetensors", at, std::string("\x00\x00\xc0\x7f", 4), true);
  }
  const Status nan = Nf4ModelFolder::Open(dir).status();
  EXPECT_EQ(nan.reason(), "NF4_SCALE_RANGE");
  EXPECT_THAT(nan.message(), HasSubstr("model.layers.1.mlp.up_proj"));

  Nf4Config other{.model = TinyConfig(DType::kBF16), .double_quantization = !GetParam(), .base_hash = std::string(64, 'a')};
  ASSERT_TRUE(WriteFileAtomic(dir / "config.json", ToJson(other)).ok());
  const auto manifest = BuildManifest(dir, nlohmann::json::object());
  ASSERT_TRUE(WriteManifest(dir, *manifest).ok());
  EXPECT_EQ(Nf4ModelFolder::Open(dir).status().reason(), "NF4_TENSOR_MISMATCH");
}

TEST_P(Nf4ModelTest, AFailedWeightIsNamedAndNothingLooksComplete) {
  const auto base = ModelFolder::Open(base_dir());
  const auto failed = WriteNf4Model(*base, temp_.path() / "nf4",
                                    [](const TensorView&) -> StatusOr<Nf4Parts> { return InvalidArgument("NF4_SCALE", "scale[3]=nan"); },
                                    {});
  EXPECT_EQ(failed.status().reason(), "NF4_SCALE");
  EXPECT_THAT(failed.status().message(), HasSubstr("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_FALSE(Nf4ModelFolder::Open(temp_.path() / "nf4").ok());
  EXPECT_EQ(Write("cancelled", {.cancelled = [] { return true; }}).status().code(), StatusCode::kCancelled);
  EXPECT_EQ(Write("base").status().reason(), "OUTPUT_NOT_EMPTY");
}

TEST_P(Nf4ModelTest, ConfigSurvivesTheRoundTripAndBadOnesAreNamed) {
  const Nf4Config config{.model = TinyConfig(), .double_quantization = GetParam(), .base_hash = std::string(64, 'b')};
  const std::string text = ToJson(config);
  const auto parsed = ParseNf4Config(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status().ToString();
  EXPECT_EQ(*parsed, config);
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    return ParseNf4Config(changed).status();
  };
  EXPECT_EQ(with("\"format_version\": 1", "\"format_version\": 3").reason(), "NF4_FORMAT");
  EXPECT_THAT(with("\"format_version\": 1", "\"format_version\": 2").message(), HasSubstr("merged_hash"));
  Nf4Config merged = config;
  merged.merged_hash = std::string(64, 'c');
  ASSERT_TRUE(ParseNf4Config(ToJson(merged)).ok());
  EXPECT_EQ(*ParseNf4Config(ToJson(merged)), merged);
  EXPECT_EQ(ParseModelForm(ToJson(merged))->held_as, config.held_as());
  EXPECT_EQ(ParseModelForm(ToHfConfigJson(TinyConfig()))->held_as, BaseQuantization{});
  EXPECT_EQ(with("\"block_size\": 64", "\"block_size\": 128").reason(), "NF4_FORMAT");
  EXPECT_EQ(with("\"block_size\": 64", "\"block_size\": \"64\"").reason(), "NF4_CONFIG_MALFORMED");
  EXPECT_EQ(with("sbora_nf4", "bitsandbytes").reason(), "NF4_CONFIG_MALFORMED");
  EXPECT_THAT(with(std::string(64, 'b'), "zz").message(), HasSubstr("base_hash"));
  EXPECT_EQ(ParseNf4Config("[]").status().reason(), "NF4_CONFIG_MALFORMED");
}

}  // namespace
}  // namespace sbora::core
