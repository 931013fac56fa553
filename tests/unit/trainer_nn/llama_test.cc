#include "worker/trainer/nn/llama.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/lora_init.h"
#include "tests/unit/trainer_nn/tiny_llama.h"

namespace sbora::trainer {
namespace {

using core::AdapterMethod;
using testing::AllRows;
using testing::MaxDifference;
using testing::RandomIds;
using testing::TinyAdapter;
using testing::TinyConfig;
using testing::TinyModel;

class LlamaMethodTest : public ::testing::TestWithParam<AdapterMethod> {};
INSTANTIATE_TEST_SUITE_P(Methods, LlamaMethodTest,
                         ::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kSboraFb, AdapterMethod::kLora,
                                           AdapterMethod::kDora),
                         [](const auto& info) { return std::string(core::AdapterMethodName(info.param)); });

TEST_P(LlamaMethodTest, PackedLogitsEqualEachSampleAlone) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(GetParam());
  PackedBatch packed;
  for (const int64_t length : {7, 1, 20, 3}) packed.Append(packed.sample_ids.size(), RandomIds(length, 1 + static_cast<uint32_t>(length)));
  const at::Tensor together = model->Logits(packed, AllRows(packed), adapter.get());
  for (int64_t n = 0; n < packed.samples(); ++n) {
    const int64_t begin = packed.cu_seqlens[static_cast<size_t>(n)];
    const int64_t end = packed.cu_seqlens[static_cast<size_t>(n) + 1];
    PackedBatch alone;
    alone.Append(0, {packed.ids.begin() + begin, packed.ids.begin() + end});
    EXPECT_LT(MaxDifference(model->Logits(alone, AllRows(alone), adapter.get()), together.slice(0, begin, end)), 1e-4);
  }
}

TEST_P(LlamaMethodTest, PackedGradientIsTheSumOfTheSamplesDropoutIncluded) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(GetParam(), 0.25);
  const TrainContext context{.training = true, .seed = 9, .epoch = 2};
  PackedBatch packed;
  std::vector<std::vector<int64_t>> samples;
  for (const int64_t length : {6, 11, 2}) samples.push_back(RandomIds(length, static_cast<uint32_t>(length)));
  for (size_t i = 0; i < samples.size(); ++i) packed.Append(100 + i, samples[i]);
  const LossResult together = model->ForwardLoss(packed, adapter.get(), context);
  together.sum.backward();
  const at::Tensor gradient = adapter->gradients().clone();
  adapter->ZeroGradients();
  double loss = 0;
  for (size_t i = samples.size(); i-- > 0;) {  // another order, one at a time
    PackedBatch alone;
    alone.Append(100 + i, samples[i]);
    const LossResult part = model->ForwardLoss(alone, adapter.get(), context);
    part.sum.backward();
    loss += part.sum.item<double>();
  }
  EXPECT_EQ(together.count, 16);
  EXPECT_NEAR(together.sum.item<double>(), loss, 1e-3);
  EXPECT_LT(MaxDifference(adapter->gradients(), gradient), 2e-4 * gradient.abs().max().item<double>());
  // Another epoch draws other masks.
  adapter->ZeroGradients();
  model->ForwardLoss(packed, adapter.get(), {.training = true, .seed = 9, .epoch = 3}).sum.backward();
  EXPECT_GT(MaxDifference(adapter->gradients(), gradient), 1e-2 * gradient.abs().max().item<double>());
}

TEST_P(LlamaMethodTest, GradientIsTheSlopeOfTheLoss) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(GetParam());
  PackedBatch batch;
  batch.Append(0, RandomIds(12, 1));
  batch.Append(1, RandomIds(9, 2));
  model->ForwardLoss(batch, adapter.get(), {.training = true, .seed = 0, .epoch = 0}).sum.backward();
  for (const AdapterModule& module : adapter->modules()) {
    for (const AdapterTensor& tensor : module.tensors) {
      SCOPED_TRACE(tensor.spec.name);
      // DoRA's A and B: the norm is a constant to the gradient and not to the loss.
      if (GetParam() == AdapterMethod::kDora && tensor.spec.role != core::TensorRole::kMagnitude) continue;
      const at::Tensor direction = tensor.gradient / tensor.gradient.norm();
      at::Tensor value = tensor.value;
      const at::Tensor start = value.clone();
      const double step = 1e-2;
      const auto loss_at = [&](double t) {
        value.copy_(start + direction * t);
        return model->ForwardLoss(batch, adapter.get(), {}).sum.item<double>();
      };
      const double slope =
          (8 * (loss_at(step) - loss_at(-step)) - (loss_at(2 * step) - loss_at(-2 * step))) / (12 * step);
      value.copy_(start);
      const double expected = tensor.gradient.norm().item<double>();
      EXPECT_NEAR(slope, expected, 0.02 * expected + 5e-3);
    }
  }
}

TEST_P(LlamaMethodTest, MergedWeightsEqualTheAdapterForward) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(GetParam());
  PackedBatch batch;
  batch.Append(0, RandomIds(15, 1));
  const at::Tensor adapted = model->Logits(batch, AllRows(batch), adapter.get());
  const at::Tensor base = model->Logits(batch, AllRows(batch), nullptr);
  EXPECT_GT(MaxDifference(adapted, base), 0.1);
  for (const AdapterModule& module : adapter->modules()) {
    at::Tensor weight = model->Weight(module.layer, module.module);
    const at::Tensor merged = adapter->Merged(module, weight);
    const int64_t changed_lines = (merged != weight).any(GetParam() == AdapterMethod::kSboraFa ? 0 : 1).sum().item<int64_t>();
    EXPECT_EQ(changed_lines, core::UsesIndices(GetParam()) ? module.rank : module.out_features);
    weight.copy_(merged);
  }
  EXPECT_LT(MaxDifference(model->Logits(batch, AllRows(batch), nullptr), adapted), 1e-3);
}

TEST_P(LlamaMethodTest, ModulesAreLaidOutInBackwardOrder) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(GetParam());
  std::vector<std::string> expected;
  int64_t offset = 0;
  for (const AdapterModule& module : adapter->modules()) {
    EXPECT_EQ(module.offset, offset);
    offset += module.size;
    expected.push_back(module.name);
  }
  EXPECT_EQ(offset, adapter->parameter_count());
  std::vector<std::string> announced;
  adapter->SetGradientReadyHook([&](const AdapterModule& module) { announced.push_back(module.name); });
  PackedBatch batch;
  batch.Append(0, RandomIds(5, 1));
  model->ForwardLoss(batch, adapter.get(), {.training = true, .seed = 0, .epoch = 0}).sum.backward();
  EXPECT_EQ(announced, expected);
}

TEST(Llama, LossIsTheLogitsLogSoftmaxOverSupervisedTokens) {
  const auto model = TinyModel();
  PackedBatch batch;
  const std::vector<int64_t> ids = RandomIds(8, 3);
  batch.Append(0, ids, {false, false, false, true, true, false, true, true});
  EXPECT_THAT(batch.supervised_rows, ::testing::ElementsAre(2, 3, 5, 6));
  const LossResult loss = model->ForwardLoss(batch, nullptr, {});
  const at::Tensor log_p = at::log_softmax(model->Logits(batch, AllRows(batch), nullptr).to(at::kDouble), -1);
  double expected = 0;
  for (const int64_t target : {3, 4, 6, 7}) expected -= log_p[target - 1][ids[static_cast<size_t>(target)]].item<double>();
  EXPECT_EQ(loss.count, 4);
  EXPECT_NEAR(loss.sum.item<double>(), expected, 1e-4);
  EXPECT_FALSE(loss.sum.requires_grad());
}

TEST_P(LlamaMethodTest, AFreshAdapterChangesNoBit) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(GetParam());
  const auto weight = [&](int64_t layer, core::LinearModule module) { return model->Weight(layer, module); };
  ASSERT_TRUE(adapter->Initialize(3, weight).ok());
  PackedBatch batch;
  batch.Append(0, RandomIds(10, 1));
  EXPECT_TRUE(at::equal(model->Logits(batch, AllRows(batch), adapter.get()), model->Logits(batch, AllRows(batch), nullptr)));
}

TEST(Llama, RandomWeightsAreAFunctionOfTheSeed) {
  const auto checksum = [](uint64_t seed) {
    auto model = LlamaModel::Random(TinyConfig(), seed, {});
    return (*model)->Weight(1, core::LinearModule::kDown).clone();
  };
  EXPECT_TRUE(at::equal(checksum(1), checksum(1)));
  EXPECT_FALSE(at::equal(checksum(1), checksum(2)));
  EXPECT_NEAR(checksum(1).std().item<double>(), 0.02, 0.002);
}

TEST(AdapterSet, RefusesWhatItCannotTrain) {
  const core::ModelConfig config = TinyConfig();
  AdapterOptions good{.method = AdapterMethod::kSboraFa, .rank = 2, .alpha = 4, .dropout = 0, .modules = {}};
  good.modules.push_back({.layer = 1, .module = core::LinearModule::kK, .index = {3, 31}});
  const auto reason = [&](auto change) {
    AdapterOptions options = good;
    change(options);
    auto set = AdapterSet::Create(config, options, at::kCPU);
    return set.ok() ? std::string("OK") : set.status().reason();
  };
  EXPECT_EQ(reason([](AdapterOptions&) {}), "OK");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.method = AdapterMethod::kFull; }), "METHOD_NO_ADAPTER");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.method = AdapterMethod::kDora; }), "INDICES_MISMATCH");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.frozen_a = core::FrozenFactor::kRandom; }), "FROZEN_FACTOR_METHOD");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.modules.clear(); }), "TARGET_MODULES_EMPTY");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.modules.push_back(o.modules[0]); }), "TARGET_MODULE_DUPLICATE");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.modules[0].layer = 2; }), "LAYER_OUT_OF_RANGE");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.modules[0].index = {3, 32}; }), "INDEX_OUT_OF_RANGE");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.modules[0].index = {3, 3}; }), "INDEX_NOT_ASCENDING");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.rank = 3; }), "INDICES_MISMATCH");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.rank = 0; }), "RANK_OUT_OF_RANGE");
  const auto lora_rank = [](int64_t rank) {
    return [rank](AdapterOptions& o) {
      o.method = AdapterMethod::kLora;
      o.modules[0].index.clear();
      o.rank = rank;
    };
  };
  EXPECT_EQ(reason(lora_rank(16)), "OK");  // k_proj is [16, 32]
  EXPECT_EQ(reason(lora_rank(17)), "RANK_OUT_OF_RANGE");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.alpha = 0; }), "ALPHA_OUT_OF_RANGE");
  EXPECT_EQ(reason([](AdapterOptions& o) { o.dropout = 1; }), "DROPOUT_OUT_OF_RANGE");
}

TEST(AdapterSet, InitializeDrawsAAndMeasuresTheRows) {
  const auto model = TinyModel();
  const auto weight = [&](int64_t layer, core::LinearModule module) { return model->Weight(layer, module); };
  const auto adapter = TinyAdapter(AdapterMethod::kDora);
  ASSERT_TRUE(adapter->Initialize(3, weight).ok());
  for (const AdapterModule& module : adapter->modules()) {
    const auto drawn = core::DrawLoraA(3, module.name, 5, module.in_features, core::FrozenFactor::kNone);
    EXPECT_TRUE(at::equal(module.A().value.view({-1}), at::tensor(at::ArrayRef<float>(drawn))));
    EXPECT_EQ(module.B().value.count_nonzero().item<int64_t>(), 0);
    const at::Tensor norm_O = weight(module.layer, module.module).norm(2, {1});
    EXPECT_LT(MaxDifference(module.Magnitude().value, norm_O), 1e-6);
  }
  model->Weight(1, core::LinearModule::kUp)[7].zero_();
  const auto fresh = TinyAdapter(AdapterMethod::kDora);
  const Status zero_row = fresh->Initialize(3, weight);
  EXPECT_EQ(zero_row.reason(), "ZERO_WEIGHT_ROW");
  EXPECT_THAT(zero_row.message(), ::testing::HasSubstr("row 7 of model.layers.1.mlp.up_proj"));
}

TEST(AdapterSet, AFrozenAIsNoParameter) {
  const auto trained = TinyAdapter(AdapterMethod::kLora);
  const auto frozen = TinyAdapter(AdapterMethod::kLora, 0, TinyConfig(), core::FrozenFactor::kOrthonormal);
  ASSERT_TRUE(frozen->Initialize(3, nullptr).ok());
  int64_t a_elements = 0;
  for (const AdapterModule& module : frozen->modules()) {
    a_elements += module.A().value.numel();
    EXPECT_FALSE(module.A().gradient.defined());
    EXPECT_LT(MaxDifference(at::mm(module.A().value, module.A().value.t()), at::eye(5)), 1e-5);
  }
  EXPECT_EQ(frozen->parameter_count() + a_elements, trained->parameter_count());
}

TEST(AdapterSet, RankStabilizedDividesByTheRoot) {
  AdapterOptions options{.method = AdapterMethod::kLora, .rank = 4, .alpha = 6, .modules = {{.layer = 0}}};
  EXPECT_EQ((*AdapterSet::Create(TinyConfig(), options, at::kCPU))->modules()[0].scale, 1.5);
  options.rank_stabilized = true;
  EXPECT_EQ((*AdapterSet::Create(TinyConfig(), options, at::kCPU))->modules()[0].scale, 3);
}

}  // namespace
}  // namespace sbora::trainer
