#include "core/nf4_merge.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <set>

#include "core/model_import.h"
#include "core/region.h"
#include "tests/unit/core/tiny_nf4.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::AllWeights;
using testing::NamedWeight;
using testing::NewTempDirectory;
using testing::OddNf4Config;
using testing::TinyAdapterOptions;
using testing::WriteTinyNf4Adapter;

// Half the widest gap between two NormalFloat values: -1 and -0.6961928.
constexpr float kHalfWidestGap = 0.15190361f;
const std::vector<LinearModule> kTargets = {LinearModule::kQ, LinearModule::kK, LinearModule::kDown};

bool SameBits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

class Nf4MergeTest : public ::testing::Test {
 protected:
  void MakeBase(bool double_quantization, DType dtype = DType::kF32) {
    nested_ = double_quantization;
    testing::WriteTinyModel(Dir("base"), OddNf4Config(dtype));
    testing::WriteTinyNf4(Dir("base"), Dir("nf4"), double_quantization);
  }
  fs::path Dir(const std::string& name) const { return dir_.path() / name; }
  RegionHolder Adapter(const std::string& name, TinyAdapterOptions options, const std::string& base_hash = "") {
    options.targets = kTargets;
    return WriteTinyNf4Adapter(Dir(name), Dir("base"), name, options, nested_, base_hash);
  }
  StatusOr<ExportedFolder> Merge(std::vector<AdapterToMerge> adapters, const std::string& out, bool allow_overlap = false,
                                 const std::string& base = "nf4") {
    return MergeIntoNf4({Dir(base), base == "nf4" ? Dir("base") : Dir(base)}, std::move(adapters), Dir(out), codec_,
                        {.merge = {}, .allow_overlap = allow_overlap});
  }
  Nf4ModelFolder Open(const std::string& name) {
    auto folder = Nf4ModelFolder::Open(Dir(name));
    SBORA_CHECK(folder.ok(), "{}", folder.status().ToString());
    return *std::move(folder);
  }
  std::vector<float> Values(const Nf4ModelFolder& folder, const NamedWeight& weight) {
    const auto parts = folder.Weight(weight.layer, weight.linear);
    SBORA_CHECK(parts.ok(), "{}", parts.status().ToString());
    auto values = Nf4Values(*parts, weight.shape, codec_);
    SBORA_CHECK(values.ok(), "{}", values.status().ToString());
    return *std::move(values);
  }
  /// De-quantised base plus the adapter's delta, in float32.
  std::vector<float> Exact(const std::string& adapter, const NamedWeight& weight, float lambda = 1) {
    std::vector<float> values = Values(Open("nf4"), weight);
    const auto folder = AdapterFolder::Open(Dir(adapter));
    if (!IsTarget(folder->config().placement(), weight.layer, weight.linear)) return values;
    const auto delta = AdapterDelta::Load(*folder, weight.layer, weight.linear, lambda);
    const auto k = static_cast<size_t>(weight.shape.in_features);
    for (size_t row = 0; row < values.size() / k; ++row) {
      const std::vector<float> base_I(values.begin() + static_cast<std::ptrdiff_t>(row * k),
                                      values.begin() + static_cast<std::ptrdiff_t>((row + 1) * k));
      if (delta->TouchesRow(row)) delta->AddRow(row, base_I, true, std::span<float>(values).subspan(row * k, k));
    }
    return values;
  }

  TempDirectory dir_ = NewTempDirectory();
  bool nested_ = true;
  const Nf4Codec codec_ = trainer::MakeNf4Codec(2);
};

class Nf4MergeKindTest : public Nf4MergeTest, public ::testing::WithParamInterface<bool> {
 protected:
  Nf4MergeKindTest() { MakeBase(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(DoubleQuantization, Nf4MergeKindTest, ::testing::Bool());

TEST_P(Nf4MergeKindTest, FaKeepsEveryCodeAndScaleAndItsColumnsAreExact) {
  Adapter("task", {.method = AdapterMethod::kSboraFa});
  const auto written = Merge({{"task", Dir("task")}}, "merged");
  ASSERT_TRUE(written.ok()) << written.status();
  const Nf4ModelFolder before = Open("nf4"), after = Open("merged");
  EXPECT_TRUE(after.config().merged());
  EXPECT_EQ(after.config().merged_hash, after.ComputeHash());
  EXPECT_EQ(after.config().base_hash, before.config().base_hash);
  for (const std::string& name : before.tensor_names()) {  // all that was there is there, untouched
    EXPECT_TRUE(std::ranges::equal(before.Tensor(name)->data, after.Tensor(name)->data)) << name;
  }
  EXPECT_EQ(after.tensor_names().size(), before.tensor_names().size() + 2 * 2 * kTargets.size());
  for (const NamedWeight& weight : AllWeights(OddNf4Config())) {
    const std::vector<float> exact = Exact("task", weight), merged = Values(after, weight);
    for (size_t i = 0; i < exact.size(); ++i) ASSERT_TRUE(SameBits(exact[i], merged[i])) << weight.module << " " << i;
  }
}

TEST_P(Nf4MergeKindTest, FbRequantisesItsRowsAloneWithinHalfAStep) {
  Adapter("task", {.method = AdapterMethod::kSboraFb});
  ASSERT_TRUE(Merge({{"task", Dir("task")}}, "merged").ok());
  const Nf4ModelFolder before = Open("nf4"), after = Open("merged");
  double worst = 0;
  for (const NamedWeight& weight : AllWeights(OddNf4Config())) {
    const auto base = *before.Weight(weight.layer, weight.linear), merged = *after.Weight(weight.layer, weight.linear);
    EXPECT_EQ(merged.scales, base.scales);  // scales, map and offset stay
    EXPECT_EQ(merged.scale_codes, base.scale_codes);
    EXPECT_EQ(merged.group_scales, base.group_scales);
    EXPECT_EQ(merged.offset, base.offset);
    EXPECT_TRUE(merged.columns.empty());
    const std::vector<float> exact = Exact("task", weight), values = Values(after, weight), old = Values(before, weight);
    const std::set<int32_t> rows(merged.row_index.begin(), merged.row_index.end());
    for (int64_t row = 0; row < weight.shape.out_features; ++row) {
      if (!rows.contains(static_cast<int32_t>(row))) {
        EXPECT_EQ(Nf4RowCodes(merged, weight.shape, row), Nf4RowCodes(base, weight.shape, row)) << weight.module;
      }
      for (int64_t first = 0; first < weight.shape.in_features; first += 64) {  // blocks begin with the row
        float largest = 0;
        const auto at = [&](int64_t i) { return static_cast<size_t>(row * weight.shape.in_features + i); };
        const int64_t end = std::min(weight.shape.in_features, first + 64);
        for (int64_t i = first; i < end; ++i) largest = std::max(largest, std::abs(exact[at(i)]));
        for (int64_t i = first; i < end; ++i) {
          if (!rows.contains(static_cast<int32_t>(row))) {
            ASSERT_TRUE(SameBits(values[at(i)], old[at(i)])) << weight.module << " " << row;
            continue;
          }
          const float error = std::abs(values[at(i)] - exact[at(i)]);
          ASSERT_LE(error, kHalfWidestGap * largest * 1.000001f) << weight.module << " " << row << " " << i;
          worst = std::max(worst, static_cast<double>(error / largest));
        }
      }
    }
  }
  EXPECT_GT(worst, 0.1) << "the bound is close, or the rows were not quantised";
}

TEST_P(Nf4MergeKindTest, EachModuleMergesWithItsOwnRankAndScale) {
  // Rank 3 but for q (5) and layer 1's k (2), alpha of its own for down, which is adapted in layer 1 alone.
  const AdapterPattern pattern{.layers = {},
                               .single = {{1, LinearModule::kDown}},
                               .ranks = {{{ModuleKey::kEveryLayer, LinearModule::kQ}, 5}, {{1, LinearModule::kK}, 2}},
                               .alphas = {{{1, LinearModule::kDown}, 9.0}}};
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb}) {
    const std::string name(AdapterMethodName(method));
    Adapter(name, {.method = method, .rank = 3, .pattern = pattern});
    const auto written = Merge({{name, Dir(name)}}, name + "-merged");
    ASSERT_TRUE(written.ok()) << written.status();
    const Nf4ModelFolder after = Open(name + "-merged");
    const auto config = AdapterFolder::Open(Dir(name))->config();
    for (const NamedWeight& weight : AllWeights(OddNf4Config())) {
      const auto parts = *after.Weight(weight.layer, weight.linear);
      const bool target = IsTarget(config.placement(), weight.layer, weight.linear);
      const int64_t rank = target ? RankOf(config.placement(), weight.layer, weight.linear) : 0;
      EXPECT_EQ(std::ssize(parts.row_index) + std::ssize(parts.column_index), rank) << weight.module;
      if (method == AdapterMethod::kSboraFb) continue;  // rounded: bounded above
      const std::vector<float> exact = Exact(name, weight), merged = Values(after, weight);
      for (size_t i = 0; i < exact.size(); ++i) ASSERT_TRUE(SameBits(exact[i], merged[i])) << weight.module << " " << i;
    }
    EXPECT_EQ(RankOf(config.placement(), 0, LinearModule::kQ), 5);
    EXPECT_EQ(RankOf(config.placement(), 1, LinearModule::kK), 2);
    EXPECT_FALSE(IsTarget(config.placement(), 0, LinearModule::kDown));
  }
}

TEST_P(Nf4MergeKindTest, TheShareOfUntouchedWeightsIsTheFormulas) {
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb}) {
    const std::string name(AdapterMethodName(method));
    const RegionHolder holder = Adapter(name, {.method = method, .rank = 5});
    ASSERT_TRUE(Merge({{name, Dir(name)}}, name + "-merged").ok());
    const Nf4ModelFolder before = Open("nf4"), after = Open(name + "-merged");
    int64_t reached = 0, changed = 0;
    for (const NamedWeight& weight : AllWeights(OddNf4Config())) {
      const auto parts = *after.Weight(weight.layer, weight.linear);
      reached += std::ssize(parts.row_index) * weight.shape.in_features +
                 std::ssize(parts.column_index) * weight.shape.out_features;
      const std::vector<float> old = Values(before, weight), now = Values(after, weight);
      for (size_t i = 0; i < old.size(); ++i) changed += SameBits(old[i], now[i]) ? 0 : 1;
    }
    // method.md: FA changes d r of a module's weights, FB r k.
    int64_t formula = 0;
    for (const LinearModule target : kTargets) {
      const ModuleShape shape = LinearModuleShape(OddNf4Config(), target);
      formula += 2 * 5 * (method == AdapterMethod::kSboraFa ? shape.out_features : shape.in_features);
    }
    EXPECT_EQ(reached, formula);
    EXPECT_EQ(CountChangedWeights(OddNf4Config(), method, 5, kTargets).changed, formula);
    EXPECT_EQ(CountChangedWeights(OddNf4Config(), std::vector{holder}).changed, formula);
    EXPECT_LE(changed, formula);
    EXPECT_GT(changed, formula / 2);  // a row may be rounded to the value it had
  }
}

TEST_P(Nf4MergeKindTest, DisjointAdaptersMergeToTheSameBytesInAnyOrder) {
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb}) {
    const std::string prefix(AdapterMethodName(method));
    std::vector<RegionHolder> holders;
    std::vector<AdapterToMerge> adapters;
    for (const char* name : {"a", "b", "c"}) {
      holders.push_back(Adapter(prefix + name, {.method = method, .avoid = holders}));
      adapters.push_back({prefix + name, Dir(prefix + name), name == std::string("b") ? 0.5 : 1.0});
    }
    std::string hash;
    std::vector<int> order = {0, 1, 2};
    int turn = 0;
    do {
      std::vector<AdapterToMerge> in_order;
      for (const int i : order) in_order.push_back(adapters[static_cast<size_t>(i)]);
      const std::string out = prefix + "-merged-" + std::to_string(turn++);
      const auto written = Merge(in_order, out);
      ASSERT_TRUE(written.ok()) << written.status();
      const Nf4ModelFolder merged = Open(out);
      EXPECT_TRUE(hash.empty() || hash == merged.config().merged_hash);
      hash = merged.config().merged_hash;
    } while (std::next_permutation(order.begin(), order.end()));
    // Each one's rows or columns are those of its merge alone.
    ASSERT_TRUE(Merge({adapters[1]}, prefix + "-solo").ok());
    const Nf4ModelFolder solo = Open(prefix + "-solo"), all = Open(prefix + "-merged-0");
    for (const NamedWeight& weight : AllWeights(OddNf4Config())) {
      const auto touched = *solo.Weight(weight.layer, weight.linear);
      const std::vector<float> alone = Values(solo, weight), together = Values(all, weight);
      for (size_t i = 0; i < alone.size(); ++i) {
        const auto row = static_cast<int32_t>(i / static_cast<size_t>(weight.shape.in_features));
        const auto column = static_cast<int32_t>(i % static_cast<size_t>(weight.shape.in_features));
        if (std::ranges::binary_search(touched.row_index, row) || std::ranges::binary_search(touched.column_index, column)) {
          ASSERT_TRUE(SameBits(alone[i], together[i])) << weight.module << " " << i;
        }
      }
    }
  }
}

TEST_P(Nf4MergeKindTest, RowsAndColumnsThatCrossAddUpOnRequest) {
  Adapter("fa", {.method = AdapterMethod::kSboraFa});
  Adapter("fb", {.method = AdapterMethod::kSboraFb});
  EXPECT_EQ(Merge({{"fa", Dir("fa")}, {"fb", Dir("fb")}}, "refused").status().reason(), "REGIONS_OVERLAP");
  EXPECT_FALSE(fs::exists(Dir("refused")));
  ASSERT_TRUE(Merge({{"fb", Dir("fb")}, {"fa", Dir("fa")}}, "both", true).ok());
  // Merged one after the other, the second is trained on the first's result.
  ASSERT_TRUE(Merge({{"fa", Dir("fa")}}, "first").ok());
  Adapter("fb-after", {.method = AdapterMethod::kSboraFb}, Open("first").config().merged_hash);
  ASSERT_TRUE(Merge({{"fb-after", Dir("fb-after")}}, "second", false, "first").ok());
  const Nf4ModelFolder both = Open("both"), second = Open("second");
  for (const NamedWeight& weight : AllWeights(OddNf4Config())) {
    const auto parts = *both.Weight(weight.layer, weight.linear);
    const std::vector<float> base = Values(Open("nf4"), weight), fa = Exact("fa", weight), fb = Exact("fb", weight),
                             values = Values(both, weight);
    const auto k = static_cast<size_t>(weight.shape.in_features);
    for (const int32_t row : parts.row_index) {
      for (const int32_t column : parts.column_index) {
        const size_t i = static_cast<size_t>(row) * k + static_cast<size_t>(column);
        EXPECT_NEAR(values[i], fa[i] + fb[i] - base[i], 4e-6) << weight.module;
      }
    }
    const auto chained = *second.Weight(weight.layer, weight.linear);
    EXPECT_EQ(chained.column_index, parts.column_index);
    EXPECT_EQ(chained.row_index.size(), parts.row_index.size());
  }
  EXPECT_TRUE(fs::exists(Dir("second") / "tokenizer.json"));
}

TEST_F(Nf4MergeTest, DequantisedFloatWeightsTakeMethodsOfEveryKind) {
  MakeBase(true, DType::kBF16);
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb, AdapterMethod::kLora, AdapterMethod::kDora}) {
    const std::string name(AdapterMethodName(method));
    Adapter(name, {.method = method});
    const auto written = MergeDequantized(Dir("nf4"), Dir("base"), {{name, Dir(name)}}, Dir(name + "-float"), codec_, {});
    ASSERT_TRUE(written.ok()) << written.status();
    const auto merged = ModelFolder::Open(Dir(name + "-float"));
    ASSERT_TRUE(merged.ok()) << merged.status();
    for (const NamedWeight& weight : AllWeights(OddNf4Config())) {
      const std::vector<float> exact = Exact(name, weight);
      std::vector<std::byte> rounded(exact.size() * 2);
      ASSERT_TRUE(FromFloat(exact, DType::kBF16, rounded).ok());
      EXPECT_TRUE(std::ranges::equal(rounded, merged->Tensor(weight.module + ".weight")->data)) << name << weight.module;
    }
  }
}

TEST_F(Nf4MergeTest, WhatCannotBeMergedIsRefusedWithWhatCan) {
  MakeBase(true);
  for (const AdapterMethod method : {AdapterMethod::kLora, AdapterMethod::kDora}) {
    const std::string name(AdapterMethodName(method));
    Adapter(name, {.method = method});
    const Status dense = Merge({{name, Dir(name)}}, "out").status();
    EXPECT_EQ(dense.reason(), "MERGE_DENSE_NF4");
    EXPECT_THAT(dense.message(), HasSubstr("rounded anew"));
    EXPECT_THAT(dense.message(), HasSubstr("--into float"));
  }
  Adapter("fa", {});
  const auto plain = testing::WriteTinyAdapter(Dir("plain"), Dir("base"), "plain", {.targets = kTargets});
  EXPECT_EQ(Merge({{"plain", Dir("plain")}}, "out").status().reason(), "ADAPTER_NOT_NF4");
  // Both forms of one base have its hash; the adapters still differ.
  EXPECT_EQ(MergeAdapters(Dir("base"), {{"fa", Dir("fa")}}, Dir("out"), {}).status().reason(), "MERGE_QUANTIZED_BASE");
  EXPECT_EQ(Merge({{"fa", Dir("fa")}, {"plain", Dir("plain")}}, "out").status().reason(), "ADAPTER_NOT_NF4");
  Adapter("stranger", {}, std::string(64, 'c'));
  const Status stranger = Merge({{"stranger", Dir("stranger")}}, "out").status();
  EXPECT_EQ(stranger.reason(), "BASE_HASH_MISMATCH");
  EXPECT_THAT(stranger.message(), HasSubstr(std::string(64, 'c')));
  nested_ = false;
  Adapter("plain-scales", {});
  EXPECT_EQ(Merge({{"plain-scales", Dir("plain-scales")}}, "out").status().reason(), "NF4_BASE_MISMATCH");
  nested_ = true;
  // An adapter of the base is none of the merged model.
  ASSERT_TRUE(Merge({{"fa", Dir("fa")}}, "merged").ok());
  EXPECT_EQ(Merge({{"fa", Dir("fa")}}, "out", false, "merged").status().reason(), "BASE_HASH_MISMATCH");
  EXPECT_EQ(MergeDequantized(Dir("merged"), Dir("base"), {{"fa", Dir("fa")}}, Dir("out"), codec_, {}).status().reason(),
            "NF4_MERGED_BASE");
  EXPECT_EQ(Merge({{"fa", Dir("fa")}}, "merged").status().reason(), "OUTPUT_NOT_EMPTY");
  EXPECT_FALSE(fs::exists(Dir("out")));
  const auto stopped = MergeIntoNf4({Dir("nf4"), Dir("base")}, {{"fa", Dir("fa")}}, Dir("stopped"), codec_,
                                    {.merge = {.progress = {}, .cancelled = [] { return true; }, .known_base_hash = {}}});
  EXPECT_EQ(stopped.status().code(), StatusCode::kCancelled);
}

TEST_F(Nf4MergeTest, AMergedModelIsImportedAsItIsAndABaseIsNot) {
  MakeBase(true);
  Adapter("fb", {.method = AdapterMethod::kSboraFb});
  ASSERT_TRUE(Merge({{"fb", Dir("fb")}}, "merged").ok());
  const auto imported = ImportModel(Dir("merged"), Dir("imported"), {.max_shard_bytes = 4000, .progress = {}, .cancelled = {}});
  ASSERT_TRUE(imported.ok()) << imported.status();
  EXPECT_EQ(imported->base_hash, Open("merged").config().merged_hash);
  EXPECT_EQ(imported->held_as, (BaseQuantization{.kind = Quantization::kNf4, .double_quantization = true}));
  EXPECT_EQ(imported->parameter_count, ParameterCount(OddNf4Config()));
  const Nf4ModelFolder after = Open("imported");
  EXPECT_GT(after.shards().size(), 1u);
  EXPECT_EQ(after.ComputeHash(), imported->base_hash);
  EXPECT_TRUE(fs::exists(Dir("imported") / "tokenizer.json"));
  const Status base = ImportModel(Dir("nf4"), Dir("out"), {}).status();
  EXPECT_EQ(base.reason(), "NF4_BASE_IMPORT");
  EXPECT_THAT(base.message(), HasSubstr("import the plain base"));
  fs::remove(Dir("merged") / "tokenizer.json");
  EXPECT_EQ(ImportModel(Dir("merged"), Dir("bare"), {}).status().reason(), "MODEL_FILE_MISSING");
}

TEST_F(Nf4MergeTest, DamageToAMergedModelIsFound) {
  MakeBase(true);
  Adapter("fb", {.method = AdapterMethod::kSboraFb});
  ASSERT_TRUE(Merge({{"fb", Dir("fb")}}, "merged").ok());
  const fs::path file = Dir("merged") / "model.safetensors";
  auto text = ReadFile(file, 1 << 30);
  std::string damaged = *text;
  damaged.back() = static_cast<char>(damaged.back() ^ 1);
  ASSERT_TRUE(WriteFileAtomic(file, damaged).ok());
  const Status found = Nf4ModelFolder::Open(Dir("merged")).status();
  EXPECT_EQ(found.reason(), "NF4_DAMAGED");
  EXPECT_EQ(found.code(), StatusCode::kDataLoss);
  EXPECT_FALSE(MergeIntoNf4({Dir("merged"), Dir("merged")}, {{"fb", Dir("fb")}}, Dir("out"), codec_, {}).ok());
}

}  // namespace
}  // namespace sbora::core
