#include "core/region.h"

#include <gmock/gmock.h>

#include <set>

#include "core/r_index.h"
#include "core/region_draw.h"
#include "tests/unit/core/tiny_adapter.h"

namespace sbora::core {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::NewTempDirectory;
using testing::TinyConfig;
using testing::WriteTinyAdapter;
using testing::WriteTinyModel;

const std::string kBase(64, 'b');
const std::vector<LinearModule> kFive = {LinearModule::kQ, LinearModule::kK, LinearModule::kV, LinearModule::kUp,
                                         LinearModule::kDown};

ModelConfig Llama(int64_t hidden, int64_t layers, int64_t heads, int64_t kv_heads, int64_t ffn, int64_t vocab) {
  ModelConfig config;
  config.hidden_size = hidden;
  config.num_layers = layers;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = hidden / heads;
  config.intermediate_size = ffn;
  config.vocab_size = vocab;
  return config;
}

AdapterSpec Spec(AdapterMethod method, int64_t rank,
                 std::vector<LinearModule> targets = {LinearModule::kQ, LinearModule::kK}) {
  AdapterSpec spec;
  spec.method = method;
  spec.rank = rank;
  spec.target_modules = std::move(targets);
  return spec;
}

Region MakeRegion(RegionAxis axis, std::vector<int32_t> indices, std::string module = "m") {
  return {
      .base_hash = kBase, .module = std::move(module), .shape = {8, 16}, .axis = axis, .indices = std::move(indices)};
}

TEST(RegionTest, OverlapsAreCountedInCoordinatesWeightsAndShare) {
  const RegionSet columns = {MakeRegion(RegionAxis::kInput, {1, 4, 9})};
  const RegionSet others = {MakeRegion(RegionAxis::kInput, {4, 9, 10, 11})};
  const RegionSet rows = {MakeRegion(RegionAxis::kOutput, {0, 7})};
  const RegionSet whole = {MakeRegion(RegionAxis::kWhole, {})};
  const auto same_axis = CompareRegions(columns, others);
  ASSERT_EQ(same_axis.size(), 1u);
  EXPECT_EQ(same_axis[0].shared_coordinates, 2);
  EXPECT_EQ(same_axis[0].shared_weights, 16);
  EXPECT_DOUBLE_EQ(same_axis[0].share, 2.0 / 3.0);
  const auto crossed = CompareRegions(columns, rows);
  EXPECT_TRUE(crossed[0].AxesDiffer());
  EXPECT_EQ(crossed[0].shared_coordinates, 0);
  EXPECT_EQ(crossed[0].shared_weights, 6);
  EXPECT_DOUBLE_EQ(crossed[0].share, 6.0 / 24.0);
  EXPECT_DOUBLE_EQ(CompareRegions(columns, whole)[0].share, 1.0);
  EXPECT_EQ(CompareRegions(columns, {MakeRegion(RegionAxis::kInput, {0, 2})})[0].shared_weights, 0);
  EXPECT_TRUE(CompareRegions(columns, {MakeRegion(RegionAxis::kInput, {1}, "n")}).empty());
}

TEST(RegionTest, AMergeCountsEachWeightOnce) {
  const ModelConfig base = TinyConfig();
  const std::vector<RegionHolder> holders = {
      {"a", {MakeRegion(RegionAxis::kInput, {1, 4})}},
      {"b", {MakeRegion(RegionAxis::kInput, {4, 5})}},
      {"c", {MakeRegion(RegionAxis::kOutput, {0}), MakeRegion(RegionAxis::kOutput, {3}, "n")}}};
  const ChangedWeights count = CountChangedWeights(base, holders);
  EXPECT_EQ(count.changed, 3 * 8 + 16 - 3 + 16);
  EXPECT_EQ(count.in_targets, 2 * 8 * 16);
  EXPECT_EQ(count.in_model, ParameterCount(base));
}

// Shares of the target modules' weights, from the configurations of LLaMA-7B and LLaMA-3-8B alone.
TEST(RegionTest, SharesOfChangedWeightsAreThePapers) {
  const ModelConfig seven = Llama(4096, 32, 32, 32, 11008, 32000);
  const ModelConfig eight = Llama(4096, 32, 32, 8, 14336, 128256);
  const auto fa8 = CountChangedWeights(eight, AdapterMethod::kSboraFa, 32, kFive);
  const auto fb8 = CountChangedWeights(eight, AdapterMethod::kSboraFb, 32, kFive);
  const auto fa7 = CountChangedWeights(seven, AdapterMethod::kSboraFa, 32, kFive);
  EXPECT_EQ(fa8.changed, 25'165'824);
  EXPECT_EQ(fb8.changed, 31'457'280);
  EXPECT_EQ(fa7.changed, 28'049'408);
  EXPECT_EQ(fa8.in_targets, 4'563'402'752);
  EXPECT_NEAR(100 * fa8.ShareOfTargets(), 0.55, 0.005);
  EXPECT_NEAR(100 * fb8.ShareOfTargets(), 0.69, 0.005);
  EXPECT_NEAR(100 * fa7.ShareOfTargets(), 0.62, 0.005);
  EXPECT_EQ(CountChangedWeights(eight, AdapterMethod::kLora, 32, kFive).ShareOfTargets(), 1.0);
  const auto full = CountChangedWeights(eight, AdapterMethod::kFull, 0, {});
  EXPECT_EQ(full.changed, ParameterCount(eight));
}

TEST(RegionTest, JsonComesBackAndDamageIsRefused) {
  for (const AdapterMethod method :
       {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb, AdapterMethod::kLora, AdapterMethod::kFull}) {
    const auto regions = DrawRegions(TinyConfig(), kBase, Spec(method, 3));
    ASSERT_TRUE(regions.ok()) << regions.status();
    EXPECT_EQ(*ParseRegions(ToJson(*regions)), *regions) << AdapterMethodName(method);
  }
  for (const char* bad : {"", "[]", R"({"base_hash":"","axis":"diagonal","modules":{}})",
                          R"({"base_hash":"","axis":"input","modules":{"m":{"shape":[4,4],"indices":[4]}}})",
                          R"({"base_hash":"","axis":"input","modules":{"m":{"shape":[4,4],"indices":[2,1]}}})",
                          R"({"base_hash":"","axis":"whole","modules":{"m":{"shape":[4,4],"indices":[1]}}})"}) {
    EXPECT_EQ(ParseRegions(bad).status().reason(), "REGIONS_MALFORMED") << bad;
  }
}

TEST(RegionTest, AnAdaptersOwnRegionsAreThoseItWasDrawn) {
  const TempDirectory dir = NewTempDirectory();
  WriteTinyModel(dir.path() / "base", TinyConfig());
  const RegionHolder drawn =
      WriteTinyAdapter(dir.path() / "a", dir.path() / "base", "a", {.method = AdapterMethod::kSboraFb});
  const auto adapter = AdapterFolder::Open(dir.path() / "a");
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  EXPECT_EQ(*RegionsOf(*adapter), drawn.regions);
}

TEST(RegionDrawTest, WithNothingToAvoidItIsThePlainDraw) {
  const auto regions = DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 5));
  ASSERT_TRUE(regions.ok()) << regions.status();
  ASSERT_EQ(regions->size(), 4u);
  for (const Region& region : *regions) EXPECT_EQ(region.indices, *DrawIndices(42, region.module, 16, 5));
}

TEST(RegionDrawTest, JobsStayDisjointUntilTheBaseIsFull) {
  const AdapterSpec spec = Spec(AdapterMethod::kSboraFb, 2, kFive);  // k and v have 8 rows: four jobs
  std::vector<RegionHolder> holders;
  for (int i = 0; i < 4; ++i) {
    const RegionCapacity capacity = CountCapacity(TinyConfig(), spec, holders);
    EXPECT_EQ(capacity.holders, i);
    EXPECT_EQ(capacity.adapters_left, 4 - i);
    EXPECT_EQ(capacity.largest_rank, 8 - 2 * i);
    const auto regions = DrawRegions(TinyConfig(), kBase, spec, holders);
    ASSERT_TRUE(regions.ok()) << regions.status();
    holders.push_back({"job-" + std::to_string(i), *regions});
  }
  EXPECT_TRUE(CheckMergesExactly(holders).ok());
  EXPECT_EQ(CountCapacity(TinyConfig(), spec, holders).adapters_left, 0);
  const auto full = DrawRegions(TinyConfig(), kBase, spec, holders);
  EXPECT_EQ(full.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(full.status().reason(), "REGION_EXHAUSTED");
  for (const char* part : {"k_proj has 0 of 8 output coordinates free", "rank 2", "job-0, job-1, job-2 and 1 more",
                           "leave k_proj, v_proj out"}) {
    EXPECT_THAT(full.status().message(), HasSubstr(part));
  }
}

TEST(RegionDrawTest, ExhaustionNamesTheLargestRankThatFits) {
  std::vector<RegionHolder> holders = {{"first", *DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 11))}};
  const auto full = DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 6), holders);
  EXPECT_THAT(full.status().message(), HasSubstr("Rank 5 is the largest that fits"));
  const auto& details = full.status().metadata();
  EXPECT_TRUE(std::find(details.begin(), details.end(), std::pair<std::string, std::string>("largest_rank", "5")) !=
              details.end());
  EXPECT_TRUE(DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 5), holders).ok());
  // A rank that no empty base could hold is the old complaint, not exhaustion.
  EXPECT_EQ(DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 17)).status().reason(), "RANK_OUT_OF_RANGE");
}

TEST(RegionDrawTest, RowsAreNeverDisjointFromColumnsNorAnythingFromADenseAdapter) {
  const std::vector<RegionHolder> rows = {
      {"rows", *DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFb, 1))}};
  const auto crossed = DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 1), rows);
  EXPECT_EQ(crossed.status().reason(), "REGION_AXIS_CONFLICT");
  EXPECT_THAT(crossed.status().message(), HasSubstr("use sbora_fb here, or leave q_proj, k_proj out"));
  EXPECT_EQ(CountCapacity(TinyConfig(), Spec(AdapterMethod::kSboraFa, 1), rows).adapters_left, 0);
  const std::vector<RegionHolder> dense = {{"dense", *DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kLora, 2))}};
  EXPECT_EQ(DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 1), dense).status().reason(),
            "REGION_DENSE");
  // On modules of their own they are.
  EXPECT_TRUE(DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 1, {LinearModule::kDown}), rows).ok());
  const std::vector<RegionHolder> foreign = {
      {"foreign", *DrawRegions(TinyConfig(), std::string(64, 'c'), Spec(AdapterMethod::kSboraFa, 1))}};
  EXPECT_EQ(DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 1), foreign).status().reason(),
            "REGION_OTHER_BASE");
}

TEST(RegionDrawTest, SharedIndicesAreOneVectorForEachInput) {
  AdapterSpec spec = Spec(AdapterMethod::kSboraFa, 4, {std::begin(kAllLinearModules), std::end(kAllLinearModules)});
  spec.share_indices = true;
  const auto regions = DrawRegions(TinyConfig(), kBase, spec);
  ASSERT_TRUE(regions.ok()) << regions.status();
  std::map<std::string, std::vector<int32_t>> by_module;
  for (const Region& region : *regions) by_module[region.module] = region.indices;
  ASSERT_EQ(by_module.size(), 14u);
  for (int64_t layer = 0; layer < 2; ++layer) {
    const auto of = [&](LinearModule module) { return by_module.at(ModulePath(layer, module)); };
    EXPECT_EQ(of(LinearModule::kQ), of(LinearModule::kK));
    EXPECT_EQ(of(LinearModule::kQ), of(LinearModule::kV));
    EXPECT_EQ(of(LinearModule::kGate), of(LinearModule::kUp));
    EXPECT_NE(of(LinearModule::kQ), of(LinearModule::kGate));
    EXPECT_EQ(of(LinearModule::kQ), *DrawIndices(42, fmt::format("model.layers.{}.self_attn.qkv", layer), 16, 4));
    EXPECT_EQ(of(LinearModule::kDown), *DrawIndices(42, ModulePath(layer, LinearModule::kDown), 24, 4));
  }
  EXPECT_NE(by_module.at(ModulePath(0, LinearModule::kQ)), by_module.at(ModulePath(1, LinearModule::kQ)));
  // One member alone keeps the group's vector.
  spec.target_modules = {LinearModule::kV};
  EXPECT_EQ(DrawRegions(TinyConfig(), kBase, spec)->front().indices, by_module.at(ModulePath(0, LinearModule::kV)));
}

TEST(RegionDrawTest, ASharedVectorStaysOutOfWhatAnyMemberHolds) {
  const std::vector<RegionHolder> holders = {
      {"q", *DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 6, {LinearModule::kQ}))},
      {"k", *DrawRegions(TinyConfig(), kBase, Spec(AdapterMethod::kSboraFa, 6, {LinearModule::kK}))}};
  std::set<int32_t> taken;
  for (const RegionHolder& holder : holders)
    taken.insert(holder.regions[0].indices.begin(), holder.regions[0].indices.end());
  AdapterSpec spec = Spec(AdapterMethod::kSboraFa, 1);
  spec.share_indices = true;
  const int64_t free = CountCapacity(TinyConfig(), spec, holders).largest_rank;
  EXPECT_LE(free, 16 - static_cast<int64_t>(taken.size()));
  EXPECT_GE(free, 4);
  spec.rank = free;
  const auto fits = DrawRegions(TinyConfig(), kBase, spec, holders);
  ASSERT_TRUE(fits.ok()) << fits.status();
  const std::vector<RegionHolder> all = {holders[0], {"shared", *fits}};
  EXPECT_TRUE(CheckMergesExactly(all).ok());
  spec.rank = free + 1;
  EXPECT_THAT(DrawRegions(TinyConfig(), kBase, spec, holders).status().message(),
              HasSubstr("q_proj with model.layers"));
}

}  // namespace
}  // namespace sbora::core
