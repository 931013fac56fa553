// A model whose linear weights are NF4 computes, bit for bit, what the model with the de-quantised weights computes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>

#include "common/file.h"
#include "core/model_folder.h"
#include "core/model_writer.h"
#include "core/nf4_model.h"
#include "kernels/nf4/nf4.h"
#include "tests/unit/trainer_nn/saved_llama.h"
#include "tests/unit/trainer_nn/tiny_llama.h"
#include "worker/trainer/nn/generate.h"
#include "worker/trainer/ops/linear_weight.h"
#include "worker/trainer/ops/quantize_weight.h"
#include "worker/trainer/ops/sbora_linear.h"
#include "worker/trainer/session/quantize_base.h"
#include "worker/trainer/session/quiet_observer.h"

namespace sbora::trainer {
namespace {

using core::AdapterMethod;
using testing::AllRows;
using testing::MaxDifference;
using testing::NewTempDirectory;
using testing::OddConfig;
using testing::RandomIds;
using testing::Save;
using testing::TinyAdapter;
using testing::TinyModel;
using testing::TwoSamples;

struct Pair {
  std::unique_ptr<LlamaModel> nf4;
  std::unique_ptr<LlamaModel> dense;  ///< the same values in float32
  std::unique_ptr<LlamaModel> original;
};

Pair MakePair(bool double_quantization) {
  const TempDirectory temp = NewTempDirectory();
  Pair pair{.nf4 = {}, .dense = {}, .original = TinyModel(OddConfig())};
  Save(*pair.original, temp.path() / "base");
  testing::Quantize(temp.path() / "base", temp.path() / "nf4", double_quantization);
  pair.nf4 = testing::LoadNf4(temp.path() / "nf4");
  pair.dense = testing::Dense(*pair.nf4);
  return pair;
}

class Nf4ModelTest : public ::testing::TestWithParam<std::tuple<AdapterMethod, bool>> {};
INSTANTIATE_TEST_SUITE_P(Methods, Nf4ModelTest,
                         ::testing::Combine(::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kSboraFb,
                                                              AdapterMethod::kLora, AdapterMethod::kDora),
                                            ::testing::Bool()));

TEST_P(Nf4ModelTest, ATrainingStepEqualsTheDequantisedModelsInEveryBit) {
  const auto [method, double_quantization] = GetParam();
  const Pair pair = MakePair(double_quantization);
  const auto of_nf4 = TinyAdapter(method, 0.25, OddConfig());
  const auto of_dense = TinyAdapter(method, 0.25, OddConfig());
  const TrainContext context{.training = true, .seed = 9, .epoch = 1};
  const PackedBatch batch = TwoSamples();
  for (int step = 0; step < 3; ++step) {
    const LossResult nf4 = pair.nf4->ForwardLoss(batch, of_nf4.get(), context);
    const LossResult dense = pair.dense->ForwardLoss(batch, of_dense.get(), context);
    nf4.sum.backward();
    dense.sum.backward();
    EXPECT_EQ(nf4.sum.item<float>(), dense.sum.item<float>());
    ASSERT_TRUE(at::equal(of_nf4->gradients(), of_dense->gradients())) << "step " << step;
    ASSERT_GT(of_nf4->gradients().abs().max().item<float>(), 0.0f);
    for (const auto* adapter : {of_nf4.get(), of_dense.get()}) {
      at::Tensor parameters = adapter->parameters();
      parameters.sub_(adapter->gradients(), 1e-3);
    }
  }
  EXPECT_TRUE(at::equal(of_nf4->parameters(), of_dense->parameters()));
}

TEST_P(Nf4ModelTest, GenerationAndLogitsAreTheDequantisedModels) {
  const auto [method, double_quantization] = GetParam();
  const Pair pair = MakePair(double_quantization);
  const auto adapter = TinyAdapter(method, 0, OddConfig());
  const PackedBatch batch = TwoSamples();
  EXPECT_TRUE(at::equal(pair.nf4->Logits(batch, AllRows(batch), adapter.get()),
                        pair.dense->Logits(batch, AllRows(batch), adapter.get())));
  const GenerateOptions options{.max_new_tokens = 8};
  const auto ours = Generate(*pair.nf4, adapter.get(), {RandomIds(5, 3), RandomIds(2, 4)}, options);
  const auto theirs = Generate(*pair.dense, adapter.get(), {RandomIds(5, 3), RandomIds(2, 4)}, options);
  ASSERT_TRUE(ours.ok() && theirs.ok());
  for (size_t i = 0; i < ours->size(); ++i) EXPECT_EQ((*ours)[i].ids, (*theirs)[i].ids);
  // Four bits are no float32: the quantised model is another one, but a near one.
  const at::Tensor original = pair.original->Logits(batch, AllRows(batch), nullptr);
  const double far = MaxDifference(pair.nf4->Logits(batch, AllRows(batch), nullptr), original);
  EXPECT_GT(far, 1e-3);
  EXPECT_LT(far, original.abs().max().item<double>());
}

TEST_P(Nf4ModelTest, WeightsTakeFourBitsAndTheirScales) {
  const bool double_quantization = std::get<1>(GetParam());
  const Pair pair = MakePair(double_quantization);
  int64_t saved = 0;
  for (const core::LinearModule module : core::kAllLinearModules) {
    const core::ModuleShape shape = core::LinearModuleShape(OddConfig(), module);
    const int64_t n = shape.out_features * shape.in_features;
    const int64_t blocks = kernels::Nf4Blocks(n);
    const int64_t kept = kernels::Nf4CodeBytes(n) + (double_quantization ? blocks + 4 * kernels::Nf4Groups(blocks) : 4 * blocks) + 4;
    saved += (4 * n - kept) * OddConfig().num_layers;
  }
  EXPECT_EQ(pair.dense->WeightBytes() - pair.nf4->WeightBytes(), saved);
  EXPECT_EQ(pair.dense->WeightBytes(), 4 * core::ParameterCount(OddConfig()));
}

ops::LinearWeight Nf4Weight(const at::Tensor& w_OI, const std::shared_ptr<ops::DequantizeScratch>& scratch) {
  const int64_t elements = w_OI.numel();
  ops::Nf4Tensors tensors{.out_features = w_OI.size(0), .in_features = w_OI.size(1),
                          .codes = at::empty({kernels::Nf4CodeBytes(elements)}, at::kByte),
                          .scales = at::empty({kernels::Nf4Blocks(elements)}, at::kFloat),
                          .scale_codes = {}, .group_scales = {}};
  const Status status = kernels::QuantizeNf4(kernels::Device::kCpu, elements, kernels::DType::kF32, w_OI.const_data_ptr(),
                                             tensors.codes.mutable_data_ptr<uint8_t>(), tensors.scales.mutable_data_ptr<float>());
  SBORA_CHECK(status.ok(), "{}", status.ToString());
  return {std::move(tensors), at::kFloat, scratch};
}

TEST(LinearWeight, NoGraphKeepsTheDequantisedValues) {
  at::manual_seed(1);
  const auto scratch = std::make_shared<ops::DequantizeScratch>();
  const ops::LinearWeight first = Nf4Weight(at::randn({24, 40}), scratch);
  const ops::LinearWeight second = Nf4Weight(at::randn({16, 24}), scratch);
  EXPECT_TRUE(first.quantized());
  const at::Tensor first_OI = first.Materialize();
  const at::Tensor second_OI = second.Materialize();
  at::Tensor x = at::randn({5, 40});
  x.requires_grad_();
  const at::Tensor y = ops::FrozenLinear(ops::FrozenLinear(x, first), second);
  EXPECT_EQ(scratch->buffer.numel(), 24 * 40) << "one buffer, as large as the largest weight";
  EXPECT_EQ(scratch->buffer.storage().use_count(), 1) << "held by the graph";
  scratch->buffer.fill_(std::numeric_limits<float>::quiet_NaN());  // what a graph kept would be spoilt now
  y.sum().backward();
  EXPECT_EQ(scratch->buffer.storage().use_count(), 1);
  EXPECT_LT(MaxDifference(x.grad(), at::ones({5, 16}).mm(second_OI).mm(first_OI)), 1e-4);
}

TEST(LlamaModel, QuantisingWhileLoadingGivesTheFoldersWeights) {
  const TempDirectory temp = NewTempDirectory();
  Save(*TinyModel(OddConfig()), temp.path() / "base");
  QuietObserver observer;
  ASSERT_TRUE(QuantizeBase({.model_dir = temp.path() / "base", .output_dir = temp.path() / "nf4", .base_hash = ""}, observer).ok());
  const auto folder = LlamaModel::LoadNf4(temp.path() / "nf4", {});
  const auto loaded = LlamaModel::Load(
      temp.path() / "base", {.quantization = {.kind = core::Quantization::kNf4, .double_quantization = true}});
  ASSERT_TRUE(folder.ok() && loaded.ok());
  EXPECT_EQ((*folder)->WeightBytes(), (*loaded)->WeightBytes());
  const auto ours = (*folder)->NamedTensors();
  const auto theirs = (*loaded)->NamedTensors();
  for (size_t i = 0; i < ours.size(); ++i) EXPECT_TRUE(at::equal(ours[i].second, theirs[i].second)) << ours[i].first;
}

TEST(QuantizeWeight, ThreadsChangeNoByteAndBadValuesAreNamed) {
  at::manual_seed(3);
  const at::Tensor w_OI = at::randn({700, 300});
  const auto view = [](const at::Tensor& tensor) {
    return core::TensorView{.name = "w", .dtype = core::DType::kF32, .shape = tensor.sizes().vec(),
                            .data = {static_cast<const std::byte*>(tensor.const_data_ptr()), static_cast<size_t>(tensor.nbytes())}};
  };
  const auto one = QuantizeWeight(view(w_OI), true, 1);
  const auto three = QuantizeWeight(view(w_OI), true, 3);
  ASSERT_TRUE(one.ok() && three.ok());
  EXPECT_EQ(one->codes, three->codes);
  EXPECT_EQ(one->scale_codes, three->scale_codes);
  EXPECT_EQ(one->group_scales, three->group_scales);
  EXPECT_EQ(one->offset, three->offset);
  w_OI.mutable_data_ptr<float>()[320] = std::numeric_limits<float>::infinity();
  const Status bad = QuantizeWeight(view(w_OI), true, 2).status();
  EXPECT_EQ(bad.reason(), "NF4_SCALE");
  EXPECT_THAT(bad.message(), ::testing::HasSubstr("elements 320 to 383"));
}

}  // namespace
}  // namespace sbora::trainer
