// Merged into NF4, an adapter is the adapter on the NF4 base: FA but for the order of sums, FB but for its rows' four bits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/model_folder.h"
#include "core/nf4_merge.h"
#include "tests/unit/trainer_nn/saved_llama.h"
#include "tests/unit/trainer_nn/tiny_llama.h"
#include "worker/trainer/ops/nf4_codec.h"
#include "worker/trainer/session/adapter_binding.h"
#include "worker/trainer/session/artifact.h"

namespace sbora::trainer {
namespace {

namespace fs = std::filesystem;
using core::AdapterMethod;
using testing::AllRows;
using testing::Dense;
using testing::MaxDifference;
using testing::NewTempDirectory;
using testing::OddConfig;
using testing::RandomIds;
using testing::TinyAdapter;
using testing::TinyModel;
using testing::TwoSamples;

class Nf4MergeTest : public ::testing::TestWithParam<std::tuple<AdapterMethod, bool>> {
 protected:
  Nf4MergeTest() {
    testing::Save(*TinyModel(OddConfig()), Dir("base"));
    const core::Nf4Config nf4 = testing::Quantize(Dir("base"), Dir("nf4"), std::get<1>(GetParam()));
    adapter_ = TinyAdapter(std::get<0>(GetParam()), 0, OddConfig());
    core::AdapterConfig config{.method = std::get<0>(GetParam()), .rank = 5, .alpha = 10,
                               .target_modules = {std::begin(core::kAllLinearModules), std::end(core::kAllLinearModules)},
                               .seed = 3, .index_generator_version = core::UsesIndices(std::get<0>(GetParam())) ? 1 : 0,
                               .base_model = "tiny", .base_hash = nf4.base_hash, .base_config = OddConfig()};
    config.base_quantization = nf4.held_as();
    fs::create_directories(Dir("adapter"));
    const Status written = WriteArtifact(
        Dir("adapter"), {.config = config, .layout = LayoutOf(*adapter_, config), .base_dir = {}}, ToHost(adapter_->parameters()));
    SBORA_CHECK(written.ok(), "{}", written.ToString());
  }
  fs::path Dir(const std::string& name) const { return temp_.path() / name; }

  std::unique_ptr<LlamaModel> LoadNf4(const std::string& name) const { return testing::LoadNf4(Dir(name)); }
  at::Tensor Logits(const LlamaModel& model, AdapterSet* adapter = nullptr) {
    const PackedBatch batch = TwoSamples();
    return model.Logits(batch, AllRows(batch), adapter);
  }

  TempDirectory temp_ = NewTempDirectory();
  std::unique_ptr<AdapterSet> adapter_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, Nf4MergeTest,
                         ::testing::Combine(::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kSboraFb),
                                            ::testing::Bool()));

TEST_P(Nf4MergeTest, TheMergedFolderIsAModelThatComputesWhatTheAdapterDid) {
  const core::Nf4Codec codec = MakeNf4Codec(2);
  const auto written = core::MergeIntoNf4({Dir("nf4"), Dir("base")}, {{"task", Dir("adapter")}}, Dir("merged"), codec, {});
  ASSERT_TRUE(written.ok()) << written.status();
  const auto base = LoadNf4("nf4");
  const auto merged = LoadNf4("merged");
  // The trainer's weights are core's, to the bit.
  const auto folder = core::Nf4ModelFolder::Open(Dir("merged"));
  for (int64_t layer = 0; layer < OddConfig().num_layers; ++layer) {
    for (const core::LinearModule module : core::kAllLinearModules) {
      const core::ModuleShape shape = core::LinearModuleShape(OddConfig(), module);
      const auto values = core::Nf4Values(*folder->Weight(layer, module), shape, codec);
      ASSERT_TRUE(values.ok()) << values.status();
      const at::Tensor ours = at::from_blob(const_cast<float*>(values->data()), {shape.out_features, shape.in_features});
      EXPECT_TRUE(at::equal(merged->Weight(layer, module), ours)) << core::ModulePath(layer, module);
    }
  }
  const at::Tensor with_adapter = Logits(*base, adapter_.get());
  const at::Tensor of_merged = Logits(*merged);
  const double moved = MaxDifference(with_adapter, Logits(*base));
  const double apart = MaxDifference(of_merged, with_adapter);
  RecordProperty("moved_by_adapter", std::to_string(moved));
  RecordProperty("largest_difference", std::to_string(apart));
  ASSERT_GT(moved, 0.1);
  if (std::get<0>(GetParam()) == AdapterMethod::kSboraFa) {
    EXPECT_LT(apart, 1e-5 * with_adapter.abs().max().item<double>()) << "docs/numerics.md";
  } else {
    EXPECT_GT(apart, 1e-3);  // four bits a weight
    EXPECT_LT(apart, moved) << "nearer to the adapter than to the base";
  }
  EXPECT_GT(merged->WeightBytes(), base->WeightBytes());
  EXPECT_LT(merged->WeightBytes(), Dense(*base)->WeightBytes());
}

TEST_P(Nf4MergeTest, TrainingOnItEqualsItsDequantisedModelInEveryBit) {
  ASSERT_TRUE(core::MergeIntoNf4({Dir("nf4"), Dir("base")}, {{"task", Dir("adapter")}}, Dir("merged"), MakeNf4Codec(1), {}).ok());
  const auto merged = LoadNf4("merged");
  const auto dense = Dense(*merged);
  const auto of_merged = TinyAdapter(AdapterMethod::kSboraFa, 0.25, OddConfig());
  const auto of_dense = TinyAdapter(AdapterMethod::kSboraFa, 0.25, OddConfig());
  const TrainContext context{.training = true, .seed = 9, .epoch = 1};
  merged->ForwardLoss(TwoSamples(), of_merged.get(), context).sum.backward();
  dense->ForwardLoss(TwoSamples(), of_dense.get(), context).sum.backward();
  EXPECT_TRUE(at::equal(of_merged->gradients(), of_dense->gradients()));
  EXPECT_GT(of_merged->gradients().abs().max().item<float>(), 0.0f);
}

TEST_P(Nf4MergeTest, TheFloatMergeIsTheAdapterOnTheDequantisedBase) {
  const auto written = core::MergeDequantized(Dir("nf4"), Dir("base"), {{"task", Dir("adapter")}}, Dir("float"), MakeNf4Codec(1), {});
  ASSERT_TRUE(written.ok()) << written.status();
  const auto merged = LlamaModel::Load(Dir("float"), {});
  ASSERT_TRUE(merged.ok()) << merged.status();
  const at::Tensor with_adapter = Logits(*LoadNf4("nf4"), adapter_.get());
  EXPECT_LT(MaxDifference(Logits(**merged), with_adapter), 1e-5 * with_adapter.abs().max().item<double>());
}

}  // namespace
}  // namespace sbora::trainer
