#include "core/merge.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/adapter.h"
#include "core/model_folder.h"
#include "core/region.h"
#include "tests/unit/core/tiny_adapter.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::NewTempDirectory;
using testing::TinyAdapterOptions;
using testing::TinyConfig;
using testing::WriteTinyAdapter;
using testing::WriteTinyModel;

std::vector<std::byte> Bytes(const ModelFolder& model, const std::string& tensor) {
  const auto view = model.Tensor(tensor);
  EXPECT_TRUE(view.ok()) << view.status();
  return {view->data.begin(), view->data.end()};
}

/// `region`'s bytes of a weight, in order.
std::vector<std::byte> BytesOf(const Region& region, const TensorView& weight) {
  const auto size = static_cast<size_t>(DTypeSize(weight.dtype));
  std::vector<std::byte> found;
  for (int64_t row = 0; row < weight.shape[0]; ++row) {
    for (int64_t column = 0; column < weight.shape[1]; ++column) {
      const int64_t coordinate = region.axis == RegionAxis::kInput ? column : row;
      if (!std::binary_search(region.indices.begin(), region.indices.end(), static_cast<int32_t>(coordinate))) continue;
      const auto at = static_cast<size_t>(row * weight.shape[1] + column) * size;
      found.insert(found.end(), weight.data.begin() + static_cast<std::ptrdiff_t>(at),
                   weight.data.begin() + static_cast<std::ptrdiff_t>(at + size));
    }
  }
  return found;
}

class MergeTest : public ::testing::Test {
 protected:
  void MakeBase(DType dtype) {
    fs::remove_all(base_);
    WriteTinyModel(base_, TinyConfig(dtype));
  }
  fs::path Dir(const std::string& name) const { return dir_.path() / name; }
  /// Adapters "a", "b", ... each disjoint from those before it.
  void MakeDisjoint(int count, TinyAdapterOptions options) {
    for (int i = 0; i < count; ++i) {
      options.avoid = holders_;
      const std::string name(1, static_cast<char>('a' + i));
      holders_.push_back(WriteTinyAdapter(Dir(name), base_, name, options));
    }
  }
  std::vector<AdapterToMerge> All() const {
    std::vector<AdapterToMerge> all;
    for (const RegionHolder& holder : holders_) all.push_back({holder.name, Dir(holder.name), 1.0});
    return all;
  }

  TempDirectory dir_ = NewTempDirectory();
  fs::path base_ = dir_.path() / "base";
  std::vector<RegionHolder> holders_;
};

struct Case {
  AdapterMethod method;
  DType dtype;
  int adapters;
  int64_t rank;
};

class DisjointMergeTest : public MergeTest, public ::testing::WithParamInterface<Case> {};

TEST_P(DisjointMergeTest, AllOrdersOfAdditionGiveTheSameBits) {
  const Case& c = GetParam();
  MakeBase(c.dtype);
  MakeDisjoint(c.adapters, {.method = c.method, .rank = c.rank});
  const auto base = ModelFolder::Open(base_);
  std::vector<AdapterFolder> folders;
  for (const RegionHolder& holder : holders_) folders.push_back(AdapterFolder::Open(Dir(holder.name)).value());
  std::vector<size_t> order(folders.size());
  std::iota(order.begin(), order.end(), 0);
  std::map<std::string, std::vector<std::byte>> wanted;
  int orders = 0;
  do {
    std::vector<WeightedAdapter> adapters;
    for (const size_t i : order) adapters.push_back({&folders[i], 0.5 + static_cast<double>(i)});
    for (const auto& [tensor, edit] : EditsOf(adapters)) {
      std::vector<std::byte> bytes = Bytes(*base, tensor);
      ASSERT_TRUE(edit(*base->Tensor(tensor), bytes).ok());
      const auto [first, fresh] = wanted.try_emplace(tensor, bytes);
      ASSERT_EQ(first->second, bytes) << tensor << " in order " << orders;
      ASSERT_NE(bytes, Bytes(*base, tensor));
    }
    ++orders;
  } while (std::next_permutation(order.begin(), order.end()));
  EXPECT_EQ(orders, c.adapters == 2 ? 2 : 120);
}

TEST_P(DisjointMergeTest, EachTasksPartEqualsItsSoloMergeAndTheRestTheBase) {
  const Case& c = GetParam();
  MakeBase(c.dtype);
  MakeDisjoint(c.adapters, {.method = c.method, .rank = c.rank});
  const auto merged_files = MergeAdapters(base_, All(), Dir("merged"), {});
  ASSERT_TRUE(merged_files.ok()) << merged_files.status();
  const auto merged = ModelFolder::Open(Dir("merged"));
  const auto base = ModelFolder::Open(base_);
  for (const RegionHolder& holder : holders_) {
    const fs::path solo_dir = Dir("solo-" + holder.name);
    ASSERT_TRUE(MergeAdapter(base_, Dir(holder.name), solo_dir).ok());
    const auto solo = ModelFolder::Open(solo_dir);
    for (const Region& region : holder.regions) {
      const std::string weight = region.module + ".weight";
      EXPECT_EQ(BytesOf(region, *merged->Tensor(weight)), BytesOf(region, *solo->Tensor(weight)))
          << holder.name << weight;
    }
  }
  int64_t changed = 0;
  for (const std::string& name : base->tensor_names()) {
    const auto before = Bytes(*base, name), after = Bytes(*merged, name);
    const auto size = static_cast<size_t>(DTypeSize(c.dtype));
    for (size_t at = 0; at < before.size(); at += size) changed += std::memcmp(&before[at], &after[at], size) != 0;
  }
  const ChangedWeights count = CountChangedWeights(base->config(), holders_);
  // In half precision a sum may round back to what it was; never may more change.
  if (c.dtype == DType::kF32) {
    EXPECT_EQ(changed, count.changed);
  }
  EXPECT_LE(changed, count.changed);
  EXPECT_GT(changed, count.changed * 9 / 10);
}

INSTANTIATE_TEST_SUITE_P(Cases, DisjointMergeTest,
                         ::testing::Values(Case{AdapterMethod::kSboraFa, DType::kF32, 2, 8},
                                           Case{AdapterMethod::kSboraFa, DType::kBF16, 5, 3},
                                           Case{AdapterMethod::kSboraFa, DType::kF32, 5, 3},
                                           Case{AdapterMethod::kSboraFb, DType::kF32, 2, 4},
                                           Case{AdapterMethod::kSboraFb, DType::kBF16, 5, 1},
                                           Case{AdapterMethod::kSboraFb, DType::kF16, 5, 1}));

TEST_F(MergeTest, OneAdapterAtWeightOneEqualsItsSoloMerge) {
  MakeBase(DType::kBF16);
  for (const AdapterMethod method :
       {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb, AdapterMethod::kLora, AdapterMethod::kDora}) {
    const std::string name(AdapterMethodName(method));
    WriteTinyAdapter(Dir(name), base_, name, {.method = method});
    const auto solo = MergeAdapter(base_, Dir(name), Dir("solo-" + name));
    const auto one = MergeAdapters(base_, {{name, Dir(name), 1.0}}, Dir("one-" + name), {});
    ASSERT_TRUE(solo.ok() && one.ok()) << solo.status() << one.status();
    EXPECT_EQ(solo->files, one->files) << name;  // with their hashes
  }
}

TEST_F(MergeTest, TheWeightScalesWhatIsAddedAndZeroAddsNothing) {
  MakeBase(DType::kF32);
  MakeDisjoint(1, {.alpha = 6});
  holders_.clear();
  WriteTinyAdapter(Dir("half"), base_, "a", {.alpha = 3});  // the same factors at half the scale
  const auto scaled = MergeAdapters(base_, {{"a", Dir("a"), 0.5}}, Dir("scaled"), {});
  const auto half = MergeAdapter(base_, Dir("half"), Dir("solo"));
  ASSERT_TRUE(scaled.ok() && half.ok()) << scaled.status() << half.status();
  EXPECT_EQ(scaled->files, half->files);
  ASSERT_TRUE(MergeAdapters(base_, {{"a", Dir("a"), 0.0}}, Dir("none"), {}).ok());
  EXPECT_EQ(ModelFolder::Open(Dir("none"))->ComputeBaseHash(), ModelFolder::Open(base_)->ComputeBaseHash());
}

TEST_F(MergeTest, OverlapIsRefusedByNameModuleAndShareUnlessAllowed) {
  MakeBase(DType::kF32);
  holders_.push_back(WriteTinyAdapter(Dir("a"), base_, "a", {.rank = 16}));
  holders_.push_back(WriteTinyAdapter(Dir("b"), base_, "b", {.rank = 8}));
  const auto refused = MergeAdapters(base_, All(), Dir("merged"), {});
  EXPECT_EQ(refused.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused.status().reason(), "REGIONS_OVERLAP");
  EXPECT_THAT(refused.status().message(), HasSubstr("a and b"));
  EXPECT_THAT(refused.status().message(), HasSubstr("model.layers.0.mlp.down_proj"));
  EXPECT_THAT(refused.status().message(), HasSubstr("% of the smaller region"));
  EXPECT_FALSE(fs::exists(Dir("merged")));

  // The order given does not matter, and the sum is that of the parts.
  const MergeSeveralOptions allowed{.merge = {}, .allow_overlap = true};
  std::vector<AdapterToMerge> backwards = All();
  std::reverse(backwards.begin(), backwards.end());
  const auto forth = MergeAdapters(base_, All(), Dir("forth"), allowed);
  const auto back = MergeAdapters(base_, backwards, Dir("back"), allowed);
  ASSERT_TRUE(forth.ok() && back.ok()) << forth.status() << back.status();
  EXPECT_EQ(forth->files, back->files);
  ASSERT_TRUE(MergeAdapter(base_, Dir("a"), Dir("solo-a")).ok() && MergeAdapter(base_, Dir("b"), Dir("solo-b")).ok());
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  std::map<std::string, std::vector<float>> values;
  for (const std::string model : {"base", "solo-a", "solo-b", "forth"}) {
    const auto folder = ModelFolder::Open(Dir(model));
    const auto view = folder->Tensor(name);
    values[model].resize(static_cast<size_t>(view->elements()));
    ASSERT_TRUE(ToFloat(view->dtype, view->data, values[model]).ok());
  }
  for (size_t i = 0; i < values["base"].size(); ++i) {
    const double sum = static_cast<double>(values["solo-a"][i]) + values["solo-b"][i] - values["base"][i];
    EXPECT_NEAR(values["forth"][i], sum, 4e-6);  // three roundings of values below 16: 3 * 2^-21, and slack
  }
}

TEST_F(MergeTest, RowsAgainstColumnsAndDenseAdaptersOverlap) {
  MakeBase(DType::kBF16);
  holders_.push_back(WriteTinyAdapter(Dir("columns"), base_, "columns", {.method = AdapterMethod::kSboraFa}));
  holders_.push_back(WriteTinyAdapter(Dir("rows"), base_, "rows", {.method = AdapterMethod::kSboraFb}));
  const auto crossed = MergeAdapters(base_, All(), Dir("merged"), {});
  EXPECT_EQ(crossed.status().reason(), "REGIONS_OVERLAP");
  EXPECT_THAT(crossed.status().message(), HasSubstr("cross in 9 weights"));
  holders_[1] = WriteTinyAdapter(Dir("dense"), base_, "dense", {.method = AdapterMethod::kDora});
  EXPECT_THAT(MergeAdapters(base_, All(), Dir("merged"), {}).status().message(), HasSubstr("changes all of"));
  std::vector<AdapterToMerge> backwards = All();
  std::reverse(backwards.begin(), backwards.end());
  const auto forth = MergeAdapters(base_, All(), Dir("forth"), {.merge = {}, .allow_overlap = true});
  const auto back = MergeAdapters(base_, backwards, Dir("back"), {.merge = {}, .allow_overlap = true});
  ASSERT_TRUE(forth.ok() && back.ok()) << forth.status() << back.status();
  EXPECT_EQ(forth->files, back->files);
}

TEST_F(MergeTest, RefusesOtherBasesDoubledNamesAndBadWeights) {
  MakeBase(DType::kF32);
  MakeDisjoint(1, {});
  WriteTinyModel(Dir("other-base"), TinyConfig(DType::kBF16));
  WriteTinyAdapter(Dir("z"), Dir("other-base"), "z");
  const auto bases =
      MergeAdapters(base_, {{"a", Dir("a")}, {"z", Dir("z")}}, Dir("merged"), {.merge = {}, .allow_overlap = true});
  EXPECT_EQ(bases.status().reason(), "BASES_DIFFER");
  EXPECT_THAT(bases.status().message(), ::testing::AllOf(HasSubstr("a was trained"), HasSubstr("z on base")));
  EXPECT_EQ(MergeAdapters(Dir("other-base"), {{"a", Dir("a")}}, Dir("merged"), {}).status().reason(),
            "BASE_HASH_MISMATCH");
  EXPECT_EQ(MergeAdapters(base_, {{"a", Dir("a")}, {"a", Dir("a")}}, Dir("merged"), {}).status().reason(),
            "ADAPTER_DUPLICATE");
  EXPECT_EQ(MergeAdapters(base_, {{"a", Dir("a"), NAN}}, Dir("merged"), {}).status().reason(), "WEIGHT_NOT_FINITE");
  EXPECT_EQ(MergeAdapters(base_, {}, Dir("merged"), {}).status().reason(), "ADAPTERS_EMPTY");
  EXPECT_FALSE(fs::exists(Dir("merged")));
}

// Eqs. 9 to 12 of arXiv 2407.05413 are a 4 x 4 layer at rank 2 (s = 1): with one-hot rows in A, B A holds B's columns
// at the chosen inputs and zeros elsewhere; with one-hot columns in B, A's rows at the chosen outputs. Here for every
// choice of two coordinates, with numbers in place of b_ij and a_ij.
TEST_F(MergeTest, FourByFourUpdatesAreTheFactorsColumnsOrRows) {
  constexpr float kFactor[8] = {11, 12, 21, 22, 31, 32, 41, 42};  // FA: B [4, 2]; FB: A [2, 4]
  for (const AdapterMethod method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb}) {
    for (int32_t first = 0; first < 4; ++first) {
      for (int32_t second = first + 1; second < 4; ++second) {
        ModelConfig base = TinyConfig();
        base.hidden_size = base.head_dim = base.intermediate_size = 4;
        base.num_layers = base.num_heads = base.num_kv_heads = 1;
        const AdapterConfig config{.method = method,
                                   .rank = 2,
                                   .alpha = 2,
                                   .dropout = 0,
                                   .target_modules = {LinearModule::kQ},
                                   .seed = 0,
                                   .index_generator_version = 1,
                                   .artifact_dtype = DType::kF32,
                                   .base_model = "4x4",
                                   .base_hash = std::string(64, 'a'),
                                   .base_config = base};
        const int32_t indices[2] = {first, second};
        const auto specs = ExpectedAdapterTensors(config);
        std::vector<TensorToWrite> tensors;
        for (const TensorSpec& spec : specs) {
          std::span<const std::byte> bytes = std::as_bytes(std::span(kFactor));
          if (spec.dtype == DType::kI32) bytes = std::as_bytes(std::span(indices));
          tensors.push_back({spec, bytes});
        }
        const fs::path dir = Dir("4x4");
        fs::create_directories(dir);
        ASSERT_TRUE(WriteSafetensors(dir / kAdapterModelFile, tensors, {}).ok());
        ASSERT_TRUE(WriteFileAtomic(dir / kAdapterConfigFile, ToJson(config)).ok());
        const auto adapter = AdapterFolder::Open(dir);
        ASSERT_TRUE(adapter.ok()) << adapter.status();
        const auto delta = AdapterDelta::Load(*adapter, 0, LinearModule::kQ, 1.0);
        ASSERT_TRUE(delta.ok()) << delta.status();
        const std::vector<float> zero(16, 0.0f);
        std::vector<float> update(16, 0.0f);
        ASSERT_TRUE(
            AddDeltas({&*delta, 1},
                      {.name = "w", .dtype = DType::kF32, .shape = {4, 4}, .data = std::as_bytes(std::span(zero))},
                      std::as_writable_bytes(std::span(update)))
                .ok());
        for (int32_t row = 0; row < 4; ++row) {
          for (int32_t column = 0; column < 4; ++column) {
            const bool fa = method == AdapterMethod::kSboraFa;
            const int32_t place = fa ? column : row;
            const int32_t r = place == first ? 0 : place == second ? 1 : -1;
            const float wanted = r < 0 ? 0.0f : kFactor[fa ? row * 2 + r : r * 4 + column];
            EXPECT_EQ(update[static_cast<size_t>(row * 4 + column)], wanted);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace sbora::core
