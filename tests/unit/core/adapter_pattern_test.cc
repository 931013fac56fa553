#include "core/adapter_pattern.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "core/estimate.h"
#include "core/merge.h"
#include "core/peft_export.h"
#include "tests/unit/core/tiny_adapter.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;
using testing::NewTempDirectory;
using testing::TinyAdapterOptions;
using testing::TinyConfig;
using testing::WriteTinyAdapter;
using testing::WriteTinyModel;
using enum LinearModule;

constexpr int64_t kEvery = ModuleKey::kEveryLayer;

TEST(ModuleKeyTest, ReadsEveryWayOfWritingOne) {
  for (const char* name : {"q", "q_proj"}) EXPECT_EQ(*ParseModuleKey(name), (ModuleKey{kEvery, kQ})) << name;
  for (const char* name : {"model.layers.11.mlp.down_proj", "layers.11.mlp.down_proj", "layers.11.down", "model.layers.11.down"}) {
    EXPECT_EQ(*ParseModuleKey(name), (ModuleKey{11, kDown})) << name;
  }
  for (const LinearModule module : kAllLinearModules) {
    for (const ModuleKey key : {ModuleKey{kEvery, module}, ModuleKey{3, module}}) {
      EXPECT_EQ(*ParseModuleKey(ToString(key)), key);
    }
  }
  for (const char* name : {"", "wq", "model.q", "layers.q", "layers.-1.q", "layers.1", "layers.1x.q", "layers.1.mlp.q_proj",
                           "self_attn.q_proj", "layers.99999999999999999999.q", "layers.1.self_attn.q_proj.weight"}) {
    EXPECT_EQ(ParseModuleKey(name).status().reason(), "TARGET_MODULE_UNKNOWN") << name;
  }
}

TEST(LayersTest, ReadsNumbersAndRangesAndWritesTheShortest) {
  EXPECT_THAT(*ParseLayers({"8-10", "0", "2", "1", "9"}), ElementsAre(0, 1, 2, 8, 9, 10));
  EXPECT_THAT(LayerItems({0, 1, 2, 8, 10}), ElementsAre("0-2", "8", "10"));
  EXPECT_EQ(*ParseLayers(LayerItems({0, 1, 2, 8, 10})), (std::vector<int64_t>{0, 1, 2, 8, 10}));
  EXPECT_THAT(*ParseLayers({}), ElementsAre());
  for (const char* item : {"", "-1", "3-1", "1-", "a", "1-2-3", "0-99999999"}) {
    EXPECT_EQ(ParseLayers({item}).status().reason(), "TARGET_LAYERS_MALFORMED") << item;
  }
}

/// "0q:4/8" for layer 0, q, rank 4, alpha 8.
std::vector<std::string> Describe(const std::vector<LinearModule>& targets, const AdapterPattern& pattern) {
  std::vector<std::string> out;
  for (const AdaptedModule& each : AdaptedModules(TinyConfig(), {targets, 4, 8, pattern})) {
    EXPECT_EQ(each.shape, LinearModuleShape(TinyConfig(), each.module));
    out.push_back(fmt::format("{}{}:{}/{}", each.layer, LinearModuleName(each.module).substr(0, 1), each.rank, each.alpha));
  }
  return out;
}

TEST(AdaptedModulesTest, TheEntryOfALayerGoesBeforeThatOfTheModule) {
  EXPECT_THAT(Describe({kQ, kDown}, {}), ElementsAre("0q:4/8", "0d:4/8", "1q:4/8", "1d:4/8"));
  EXPECT_THAT(Describe({kQ, kDown}, {.ranks = {{{kEvery, kQ}, 2}, {{1, kQ}, 6}}, .alphas = {{{0, kDown}, 3}}}),
              ElementsAre("0q:2/8", "0d:4/3", "1q:6/8", "1d:4/8"));
  EXPECT_THAT(Describe({kQ, kDown}, {.layers = {1}}), ElementsAre("1q:4/8", "1d:4/8"));
  EXPECT_THAT(Describe({kQ, kDown}, {.single = {{0, kDown}}}), ElementsAre("0q:4/8", "0d:4/8", "1q:4/8"));
}

TEST(CheckPatternTest, NamesWhatTheModelOrTheTargetsDoNotHave) {
  const std::vector<LinearModule> targets = {kQ, kDown};
  const auto check = [&](const AdapterPattern& pattern) { return CheckPattern(TinyConfig(), {targets, 4, 8, pattern}); };
  EXPECT_TRUE(check({.layers = {0, 1}, .ranks = {{{kEvery, kQ}, 1}, {{1, kQ}, 2}}}).ok());
  const Status layer = check({.layers = {0, 2}});
  EXPECT_EQ(layer.reason(), "LAYER_OUT_OF_RANGE");
  EXPECT_EQ(layer.violations().at(0).field, "target_layers");
  EXPECT_THAT(layer.message(), HasSubstr("layers 0 to 1"));
  EXPECT_EQ(check({.single = {{2, kQ}}}).violations().at(0).field, "target_modules");
  EXPECT_EQ(check({.ranks = {{{2, kQ}, 1}}}).violations().at(0).field, "rank_pattern");
  const Status unused = check({.ranks = {{{kEvery, kV}, 1}}});
  EXPECT_EQ(unused.reason(), "PATTERN_UNUSED");
  EXPECT_THAT(unused.message(), HasSubstr("v_proj"));
  EXPECT_EQ(check({.layers = {1}, .alphas = {{{0, kQ}, 1.0}}}).violations().at(0).field, "alpha_pattern");
}

AdapterConfig Patterned(AdapterMethod method) {
  return {.method = method,
          .rank = 4,
          .alpha = 8,
          .target_modules = {kQ, kK, kDown},
          .index_generator_version = UsesIndices(method) ? 1 : 0,
          .base_model = "tiny",
          .base_hash = std::string(64, 'a'),
          .base_config = TinyConfig(),
          .base_quantization = {},
          .pattern = {.ranks = {{{kEvery, kQ}, 2}, {{1, kDown}, 6}}, .alphas = {{{0, kK}, 5.5}}}};
}

TEST(PatternedConfigTest, RoundTripsWithAVersionOfItsOwn) {
  AdapterConfig config = Patterned(AdapterMethod::kSboraFa);
  EXPECT_EQ(nlohmann::json::parse(ToJson(config))["format_version"], 3);
  EXPECT_EQ(*ParseAdapterConfig(ToJson(config)), config);
  config.base_quantization = {.kind = Quantization::kNf4, .double_quantization = true};
  config.pattern.layers = {1};
  config.pattern.alphas.clear();
  EXPECT_EQ(*ParseAdapterConfig(ToJson(config)), config);
  config.pattern.layers.clear();
  config.pattern.single = {{0, kK}, {1, kK}};
  EXPECT_EQ(*ParseAdapterConfig(ToJson(config)), config);
  config.pattern = {};
  EXPECT_EQ(nlohmann::json::parse(ToJson(config))["format_version"], 2);
  const auto with = [&](const char* key, const nlohmann::json& value) {
    auto json = nlohmann::json::parse(ToJson(Patterned(AdapterMethod::kLora)));
    json[key] = value;
    return ParseAdapterConfig(json.dump()).status().reason();
  };
  EXPECT_EQ(with("rank_pattern", {{"v_proj", 2}}), "PATTERN_UNUSED");
  EXPECT_EQ(with("rank_pattern", {{"k_proj", 9}}), "RANK_OUT_OF_RANGE");  // k_proj has 8 rows
  EXPECT_EQ(with("rank_pattern", {{"k_proj", 1.5}}), "ADAPTER_CONFIG_MALFORMED");
  EXPECT_EQ(with("alpha_pattern", {{"k_proj", 0}}), "ALPHA_OUT_OF_RANGE");
  EXPECT_EQ(with("target_layers", {"5"}), "LAYER_OUT_OF_RANGE");
  EXPECT_EQ(with("single_targets", {"q_proj"}), "ADAPTER_CONFIG_MALFORMED");
}

TEST(PatternedConfigTest, CountsFollowEachModulesRank) {
  const AdapterConfig config = Patterned(AdapterMethod::kSboraFa);
  // FA trains d * r: q 16, k 8, down 16 rows.
  EXPECT_EQ(TrainableParameters(config.method, config.Modules()), 2 * 16 * 2 + 2 * 8 * 4 + 16 * 4 + 16 * 6);
  EXPECT_EQ(CountChangedWeights(TinyConfig(), config.method, config.Modules()).changed, 2 * 16 * 2 + 2 * 8 * 4 + 16 * 4 + 16 * 6);
  AdapterSpec spec;
  spec.rank = config.rank;
  spec.target_modules = config.target_modules;
  spec.pattern = config.pattern;
  const StepLoad load{.tokens = 1, .supervised_tokens = 0, .samples = 1};
  AdapterSpec plain = spec;
  plain.pattern = {};
  // FA keeps r columns of each adapted input: q has 2 of them less in both layers, down 2 more in one.
  EXPECT_EQ(KeptActivationBytes(TinyConfig(), spec, load, 4) - KeptActivationBytes(TinyConfig(), plain, load, 4), (-2 - 2 + 2) * 4);
  EXPECT_EQ(config.ScaleOf(0, kK), 5.5 / 4);
  EXPECT_EQ(config.ScaleOf(1, kDown), 8.0 / 6);
}

TEST(PatternedRegionsTest, EachVectorHasItsModulesRankAndModulesWithoutOneAreLeftAlone) {
  AdapterSpec spec;
  spec.rank = 4;
  spec.target_modules = {kQ, kK, kDown};
  spec.pattern = Patterned(AdapterMethod::kSboraFa).pattern;
  spec.pattern.single = {{1, kK}};
  spec.pattern.alphas.clear();
  const auto regions = DrawRegions(TinyConfig(), "base", spec);
  ASSERT_TRUE(regions.ok()) << regions.status();
  std::map<std::string, size_t> sizes;
  for (const Region& region : *regions) sizes[region.module] = region.indices.size();
  EXPECT_THAT(sizes, UnorderedElementsAre(Pair(ModulePath(0, kQ), 2), Pair(ModulePath(1, kQ), 2), Pair(ModulePath(1, kK), 4),
                                          Pair(ModulePath(0, kDown), 4), Pair(ModulePath(1, kDown), 6)));
  // q has 16 inputs: 8 adapters of rank 2; k of layer 1 4 of rank 4; down 24 inputs, 4 of the rank 6 of layer 1.
  const RegionCapacity capacity = CountCapacity(TinyConfig(), spec, {});
  ASSERT_EQ(capacity.modules.size(), 3u);
  EXPECT_EQ(capacity.modules[0].adapters_left, 8);
  EXPECT_EQ(capacity.modules[1].adapters_left, 4);
  EXPECT_EQ(capacity.modules[2].adapters_left, 4);
  EXPECT_EQ(capacity.adapters_left, 4);
}

class PatternedArtifactTest : public ::testing::TestWithParam<AdapterMethod> {};

TEST_P(PatternedArtifactTest, MergeFollowsEachModulesRankAndScaleAndPeftIsToldOfThem) {
  const auto dir = NewTempDirectory();
  WriteTinyModel(dir.path() / "base", TinyConfig());
  const AdapterPattern pattern{.single = {{1, kK}},
                               .ranks = {{{kEvery, kQ}, 2}, {{1, kDown}, 6}},
                               .alphas = {{{kEvery, kDown}, 3}, {{1, kK}, 1.5}}};
  const RegionHolder holder = WriteTinyAdapter(dir.path() / "adapter", dir.path() / "base", "patterned",
                                               {.method = GetParam(), .rank = 4, .alpha = 8, .pattern = pattern});
  EXPECT_EQ(holder.regions.size(), 5u);
  const auto adapter = AdapterFolder::Open(dir.path() / "adapter");
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(RegionsOf(*adapter)->size(), 5u);
  ASSERT_TRUE(ExportPeft(dir.path() / "adapter", dir.path() / "peft").ok());
  const auto config = nlohmann::json::parse(ReadFile(dir.path() / "peft/adapter_config.json", 1 << 20).value());
  EXPECT_EQ(config["target_modules"], (nlohmann::json{"q_proj", "down_proj", "model.layers.1.self_attn.k_proj"}));
  EXPECT_EQ(config["rank_pattern"], (nlohmann::json{{"q_proj", 2}, {"model.layers.1.mlp.down_proj", 6}}));
  EXPECT_EQ(config["alpha_pattern"], (nlohmann::json{{"down_proj", 3}, {"k_proj", 1.5}}));
  EXPECT_TRUE(config["layers_to_transform"].is_null());

  const auto merged_files = MergeAdapter(dir.path() / "base", dir.path() / "adapter", dir.path() / "merged");
  ASSERT_TRUE(merged_files.ok()) << merged_files.status();
  const auto base = ModelFolder::Open(dir.path() / "base");
  const auto merged = ModelFolder::Open(dir.path() / "merged");
  const auto peft = SafetensorsFile::Open(dir.path() / "peft/adapter_model.safetensors");
  ASSERT_TRUE(peft.ok()) << peft.status();
  const std::map<std::string, double> scales = {{ModulePath(0, kQ), 4.0},     {ModulePath(1, kQ), 4.0},
                                                {ModulePath(1, kK), 1.5 / 4}, {ModulePath(0, kDown), 3.0 / 4},
                                                {ModulePath(1, kDown), 0.5}};
  const auto floats = [](const TensorView& view) {
    std::vector<float> values(static_cast<size_t>(view.elements()));
    EXPECT_TRUE(ToFloat(view.dtype, view.data, values).ok());
    return values;
  };
  for (const std::string& name : base->tensor_names()) {
    const auto before = floats(*base->Tensor(name)), after = floats(*merged->Tensor(name));
    const std::string module = name.substr(0, name.rfind('.'));
    const auto scale = scales.find(module);
    if (scale == scales.end()) {
      EXPECT_EQ(before, after) << name;
      continue;
    }
    const auto a_view = peft->Tensor("base_model.model." + module + ".lora_A.weight");
    const auto b_view = peft->Tensor("base_model.model." + module + ".lora_B.weight");
    ASSERT_TRUE(a_view.ok() && b_view.ok()) << module;
    const auto a = floats(*a_view), b = floats(*b_view);
    const auto r = static_cast<size_t>(a_view->shape[0]), k = static_cast<size_t>(a_view->shape[1]);
    for (size_t i = 0; i < before.size(); ++i) {
      double sum = 0;
      for (size_t j = 0; j < r; ++j) sum += double{b[i / k * r + j]} * a[j * k + i % k];
      ASSERT_NEAR(after[i], before[i] + scale->second * sum, 1e-5) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, PatternedArtifactTest,
                         ::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kSboraFb, AdapterMethod::kLora));

TEST(PatternedExportTest, LayersAreToldToPeftAsLayersToTransform) {
  const auto dir = NewTempDirectory();
  WriteTinyModel(dir.path() / "base", TinyConfig());
  WriteTinyAdapter(dir.path() / "adapter", dir.path() / "base", "layers",
                   {.pattern = {.layers = {1}, .ranks = {{{1, kQ}, 2}}}});
  ASSERT_TRUE(ExportPeft(dir.path() / "adapter", dir.path() / "peft").ok());
  const auto config = nlohmann::json::parse(ReadFile(dir.path() / "peft/adapter_config.json", 1 << 20).value());
  EXPECT_EQ(config["layers_to_transform"], (nlohmann::json{1}));
  EXPECT_EQ(config["rank_pattern"], (nlohmann::json{{"q_proj", 2}}));  // the one adapted layer has it
  EXPECT_EQ(config["target_modules"], (nlohmann::json{"q_proj", "k_proj", "down_proj"}));
}

}  // namespace
}  // namespace sbora::core
