#include "core/peft_export.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/adapter.h"
#include "core/model_folder.h"
#include "core/patch.h"
#include "core/r_index.h"
#include "tests/unit/core/tiny_model.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using testing::NewTempDirectory;
using testing::SeededBytes;
using testing::TinyConfig;
using testing::WriteTinyModel;

class PeftExportTest : public ::testing::Test {
 protected:
  void WriteAdapter(AdapterMethod method, DType base_dtype) {
    fs::remove_all(base_);
    fs::remove_all(adapter_);
    WriteTinyModel(base_, TinyConfig(base_dtype), 2000);
    config_ = {.method = method, .rank = 3, .alpha = 6, .dropout = 0, .target_modules = {LinearModule::kK, LinearModule::kDown},
               .seed = 5, .index_generator_version = UsesIndices(method) ? 1 : 0, .artifact_dtype = DType::kF32,
               .base_model = "tiny", .base_hash = ModelFolder::Open(base_)->ComputeBaseHash(),
               .base_config = TinyConfig(base_dtype)};
    fs::create_directories(adapter_);
    std::vector<std::vector<std::byte>> data;
    std::vector<TensorToWrite> tensors;
    const auto specs = ExpectedAdapterTensors(config_);
    for (const TensorSpec& spec : specs) {
      data.push_back(SeededBytes({spec.name, DType::kF32, spec.shape}));
      if (spec.dtype != DType::kI32) continue;
      const std::string module = spec.name.substr(0, spec.name.rfind('.'));
      const bool down = module.ends_with("down_proj");
      const bool fa = method == AdapterMethod::kSboraFa;
      const auto indices = DrawIndices(5, module, down ? (fa ? 24 : 16) : (fa ? 16 : 8), 3);
      std::memcpy(data.back().data(), indices->data(), 12);
    }
    for (size_t i = 0; i < specs.size(); ++i) tensors.push_back({specs[i], data[i]});
    ASSERT_TRUE(WriteSafetensors(adapter_ / kAdapterModelFile, tensors, AdapterMetadata(config_)).ok());
    ASSERT_TRUE(WriteFileAtomic(adapter_ / kAdapterConfigFile, ToJson(config_)).ok());
  }

  static std::vector<float> Floats(const TensorView& view) {
    std::vector<float> values(static_cast<size_t>(view.elements()));
    EXPECT_TRUE(ToFloat(view.dtype, view.data, values).ok());
    return values;
  }

  /// s * B * A of a LoRA-shaped folder, in float32, summed over r in order.
  static std::vector<float> Delta(const SafetensorsFile& peft, int64_t layer, LinearModule m, float scale) {
    const auto a_view = peft.Tensor(PeftTensorName(layer, m, "lora_A.weight"));
    const auto b_view = peft.Tensor(PeftTensorName(layer, m, "lora_B.weight"));
    EXPECT_TRUE(a_view.ok() && b_view.ok());
    const auto a = Floats(*a_view);
    const auto b = Floats(*b_view);
    const auto r = static_cast<size_t>(a_view->shape[0]), k = static_cast<size_t>(a_view->shape[1]);
    const auto d = static_cast<size_t>(b_view->shape[0]);
    std::vector<float> delta(d * k, 0.0f);
    for (size_t o = 0; o < d; ++o)
      for (size_t i = 0; i < k; ++i) {
        float sum = 0;
        for (size_t j = 0; j < r; ++j) sum += b[o * r + j] * a[j * k + i];
        delta[o * k + i] = scale * sum;
      }
    return delta;
  }

  TempDirectory dir_ = NewTempDirectory();
  fs::path base_ = dir_.path() / "base";
  fs::path adapter_ = dir_.path() / "adapter";
  AdapterConfig config_;
};

class SboraExportTest : public PeftExportTest, public ::testing::WithParamInterface<std::tuple<AdapterMethod, DType>> {};

// Merge and PEFT export are two roads to one function: W0 + s B A must agree bit for bit after rounding.
TEST_P(SboraExportTest, MergeEqualsTheOneHotLoraAndLeavesTheRest) {
  const auto [method, dtype] = GetParam();
  WriteAdapter(method, dtype);
  const auto exported = ExportPeft(adapter_, dir_.path() / "peft", "base/path");
  ASSERT_TRUE(exported.ok()) << exported.status();
  const auto peft_config = nlohmann::json::parse(ReadFile(dir_.path() / "peft/adapter_config.json", 1 << 20).value());
  EXPECT_EQ(peft_config["r"], 3);
  EXPECT_EQ(peft_config["lora_alpha"], 6);
  EXPECT_EQ(peft_config["peft_type"], "LORA");
  EXPECT_EQ(peft_config["base_model_name_or_path"], "base/path");
  const auto peft = SafetensorsFile::Open(dir_.path() / "peft/adapter_model.safetensors");
  ASSERT_TRUE(peft.ok()) << peft.status();
  EXPECT_EQ(peft->tensors().size(), 8u);

  const auto merged_files = MergeAdapter(base_, adapter_, dir_.path() / "merged");
  ASSERT_TRUE(merged_files.ok()) << merged_files.status();
  const auto base = ModelFolder::Open(base_);
  const auto merged = ModelFolder::Open(dir_.path() / "merged");
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(merged->shards().size(), base->shards().size());
  for (const std::string& name : base->tensor_names()) {
    const auto before = base->Tensor(name);
    const auto after = merged->Tensor(name);
    EXPECT_EQ(before->dtype, after->dtype);
    const bool target = name.ends_with("k_proj.weight") || name.ends_with("down_proj.weight");
    if (!target) {
      EXPECT_EQ(std::memcmp(before->data.data(), after->data.data(), before->data.size()), 0) << name;
      continue;
    }
    const int64_t layer = name[13] - '0';
    const auto delta = Delta(*peft, layer, name.ends_with("k_proj.weight") ? LinearModule::kK : LinearModule::kDown, 2.0f);
    std::vector<float> wanted = Floats(*before);
    size_t changed = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      wanted[i] += delta[i];
      changed += delta[i] != 0;
    }
    EXPECT_EQ(changed, static_cast<size_t>(3 * (method == AdapterMethod::kSboraFa ? before->shape[0] : before->shape[1])));
    std::vector<std::byte> bytes(before->data.size());
    ASSERT_TRUE(FromFloat(wanted, dtype, bytes).ok());
    EXPECT_EQ(std::memcmp(bytes.data(), after->data.data(), bytes.size()), 0) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, SboraExportTest,
                         ::testing::Combine(::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kSboraFb),
                                            ::testing::Values(DType::kF32, DType::kBF16, DType::kF16)));

TEST_F(PeftExportTest, MergesLoraAndDora) {
  for (const AdapterMethod method : {AdapterMethod::kLora, AdapterMethod::kDora}) {
    WriteAdapter(method, DType::kF32);
    const fs::path out = dir_.path() / std::string(AdapterMethodName(method));
    ASSERT_TRUE(MergeAdapter(base_, adapter_, out).ok());
    const auto adapter = AdapterFolder::Open(adapter_);
    const auto delta = Delta(adapter->tensors(), 1, LinearModule::kDown, 2.0f);
    const std::string name = "model.layers.1.mlp.down_proj.weight";
    const auto base = ModelFolder::Open(base_);
    const auto merged = ModelFolder::Open(out);
    const auto before = Floats(*base->Tensor(name));
    const auto after = Floats(*merged->Tensor(name));
    for (size_t o = 0; o < 16; ++o) {
      double norm = 0;
      for (size_t i = 0; i < 24; ++i) norm += std::pow(before[o * 24 + i] + delta[o * 24 + i], 2);
      double factor = 1;
      if (method == AdapterMethod::kDora) {
        factor = adapter->Floats(PeftTensorName(1, LinearModule::kDown, "lora_magnitude_vector")).value()[o] / std::sqrt(norm);
      }
      for (size_t i = 0; i < 24; ++i) {
        EXPECT_NEAR(after[o * 24 + i], factor * (before[o * 24 + i] + delta[o * 24 + i]), 2e-5);
      }
    }
    EXPECT_TRUE(ExportPeft(adapter_, dir_.path() / ("peft-" + out.filename().string())).ok());
  }
}

TEST_F(PeftExportTest, TheRankStabilizedScaleGoesIntoMergeAndExport) {
  WriteAdapter(AdapterMethod::kLora, DType::kF32);
  config_.rank_stabilized = true;
  config_.frozen_a = FrozenFactor::kRandom;  // changes nothing for readers
  ASSERT_TRUE(WriteFileAtomic(adapter_ / kAdapterConfigFile, ToJson(config_)).ok());
  ASSERT_TRUE(ExportPeft(adapter_, dir_.path() / "peft").ok());
  const auto peft_config = nlohmann::json::parse(ReadFile(dir_.path() / "peft/adapter_config.json", 1 << 20).value());
  EXPECT_EQ(peft_config["use_rslora"], true);
  EXPECT_EQ(peft_config["r"], 3);
  EXPECT_EQ(peft_config["lora_alpha"], 6);
  ASSERT_TRUE(MergeAdapter(base_, adapter_, dir_.path() / "merged").ok());
  const auto peft = SafetensorsFile::Open(dir_.path() / "peft/adapter_model.safetensors");
  ASSERT_TRUE(peft.ok()) << peft.status();
  const auto delta = Delta(*peft, 0, LinearModule::kK, static_cast<float>(6 / std::sqrt(3.0)));
  const auto before = Floats(*ModelFolder::Open(base_)->Tensor("model.layers.0.self_attn.k_proj.weight"));
  const auto after = Floats(*ModelFolder::Open(dir_.path() / "merged")->Tensor("model.layers.0.self_attn.k_proj.weight"));
  for (size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(after[i], before[i] + delta[i], 1e-5);
}

TEST_F(PeftExportTest, RefusesAnotherBaseAndFullOutput) {
  WriteAdapter(AdapterMethod::kSboraFa, DType::kF32);
  const auto wrong = MergeAdapter(base_, adapter_, dir_.path() / "merged",
                                  {.progress = {}, .cancelled = {}, .known_base_hash = std::string(64, '0')});
  EXPECT_EQ(wrong.status().reason(), "BASE_HASH_MISMATCH");
  EXPECT_FALSE(fs::exists(dir_.path() / "merged"));
  EXPECT_EQ(MergeAdapter(base_, adapter_, base_).status().reason(), "OUTPUT_NOT_EMPTY");
  EXPECT_EQ(ExportPeft(adapter_, adapter_).status().reason(), "OUTPUT_NOT_EMPTY");
}

TEST_F(PeftExportTest, AnAdapterOfAnNf4BaseIsNotMergedIntoTheFloatOne) {
  WriteAdapter(AdapterMethod::kSboraFa, DType::kF32);
  config_.base_quantization = {.kind = Quantization::kNf4, .double_quantization = true};
  ASSERT_TRUE(WriteFileAtomic(adapter_ / kAdapterConfigFile, ToJson(config_)).ok());
  const auto dir = NewTempDirectory();
  const Status merged = MergeAdapter(base_, adapter_, dir.path() / "merged").status();
  EXPECT_EQ(merged.reason(), "MERGE_QUANTIZED_BASE");
  EXPECT_THAT(merged.message(), ::testing::HasSubstr("nf4 with double quantisation"));
  EXPECT_FALSE(fs::exists(dir.path() / "merged"));
  EXPECT_EQ(ExportPatch(base_, adapter_, dir.path() / "patch").status().reason(), "MERGE_QUANTIZED_BASE");
  EXPECT_TRUE(ExportPeft(adapter_, dir.path() / "peft").ok());
}

// The regional update of the paper: FA touches the columns of its indices, FB the rows, and nothing else.
TEST_F(PeftExportTest, TouchesColumnsForFaAndRowsForFb) {
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb}) {
    WriteAdapter(method, DType::kF32);
    const auto adapter = AdapterFolder::Open(adapter_);
    const auto indices = adapter->Indices(0, LinearModule::kK).value();
    const fs::path out = dir_.path() / ("m-" + std::string(AdapterMethodName(method)));
    ASSERT_TRUE(MergeAdapter(base_, adapter_, out).ok());
    const auto base = ModelFolder::Open(base_);
    const auto merged = ModelFolder::Open(out);
    const auto before = Floats(*base->Tensor("model.layers.0.self_attn.k_proj.weight"));
    const auto after = Floats(*merged->Tensor("model.layers.0.self_attn.k_proj.weight"));
    for (size_t o = 0; o < 8; ++o) {
      for (size_t i = 0; i < 16; ++i) {
        const auto axis = static_cast<int32_t>(method == AdapterMethod::kSboraFa ? i : o);
        const bool touched = std::find(indices.begin(), indices.end(), axis) != indices.end();
        EXPECT_EQ(before[o * 16 + i] != after[o * 16 + i], touched);
      }
    }
  }
}

}  // namespace
}  // namespace sbora::core
