// Gradient checkpointing changes no bit: not of the loss, not of any gradient, for any method, with dropout, on NF4.
#include <gtest/gtest.h>

#include "core/adapter.h"
#include "tests/unit/trainer_nn/tiny_llama.h"

namespace sbora::trainer {
namespace {

using core::AdapterMethod;
using testing::TinyAdapter;
using testing::TinyConfig;
using testing::TinyModel;
using testing::TwoSamples;

struct Outcome {
  at::Tensor losses;
  at::Tensor gradients;
};

/// Two micro-batches into the same gradients, as the loop does.
Outcome Run(const LlamaModel& model, AdapterSet* adapter, TrainedParameters& trained, bool checkpointing) {
  trained.ZeroGradients();
  std::vector<at::Tensor> losses;
  for (const uint32_t seed : {1u, 2u}) {
    const LossResult loss = model.ForwardLoss(
        TwoSamples(seed), adapter, {.training = true, .seed = 5, .epoch = 3, .gradient_checkpointing = checkpointing});
    (loss.sum / 40).backward();
    losses.push_back(loss.sum.detach());
  }
  return {at::stack(losses), trained.gradients().clone()};
}

void ExpectSameBits(const LlamaModel& model, AdapterSet* adapter, TrainedParameters& trained) {
  const Outcome plain = Run(model, adapter, trained, false);
  const Outcome recomputed = Run(model, adapter, trained, true);
  EXPECT_TRUE(at::equal(plain.losses, recomputed.losses));
  EXPECT_TRUE(at::equal(plain.gradients, recomputed.gradients));
  EXPECT_GT(plain.gradients.abs().max().item<double>(), 1e-4);
}

TEST(GradientCheckpointing, ChangesNoBitOfAnyAdapterWithDropout) {
  const auto model = TinyModel();
  for (const auto method : {AdapterMethod::kSboraFa, AdapterMethod::kSboraFb, AdapterMethod::kLora, AdapterMethod::kDora}) {
    SCOPED_TRACE(core::AdapterMethodName(method));
    const auto adapter = TinyAdapter(method, /*dropout=*/0.3);
    ExpectSameBits(*model, adapter.get(), *adapter);
  }
  const auto frozen = TinyAdapter(AdapterMethod::kLora, 0.3, TinyConfig(), core::FrozenFactor::kRandom);
  ExpectSameBits(*model, frozen.get(), *frozen);
}

TEST(GradientCheckpointing, ChangesNoBitWhereOnlySomeLayersTrain) {
  const auto model = TinyModel();
  for (const int64_t layer : {0, 1}) {  // below the second layer nothing is differentiated
    AdapterOptions options{.method = AdapterMethod::kLora, .rank = 3, .alpha = 6};
    options.modules = {{.layer = layer, .module = core::LinearModule::kDown}};
    const auto adapter = AdapterSet::Create(TinyConfig(), options, at::kCPU);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    testing::Randomize(**adapter);
    ExpectSameBits(*model, adapter->get(), **adapter);
  }
}

TEST(GradientCheckpointing, ChangesNoBitOfFullFineTuning) {
  for (const bool tied : {true, false}) {
    core::ModelConfig config = TinyConfig();
    config.tie_word_embeddings = tied;
    const auto model = TinyModel(config);
    const auto full = model->TrainAllWeights();
    ASSERT_TRUE(full.ok()) << full.status();
    ExpectSameBits(*model, nullptr, **full);
  }
}

TEST(GradientCheckpointing, ChangesNoBitOnAnNf4Base) {
  const auto model =
      LlamaModel::Random(TinyConfig(), 7, {.quantization = {.kind = core::Quantization::kNf4, .double_quantization = true}});
  ASSERT_TRUE(model.ok()) << model.status();
  const auto adapter = TinyAdapter(AdapterMethod::kDora, 0.3);
  ExpectSameBits(**model, adapter.get(), *adapter);
}

TEST(GradientCheckpointing, TellsOfEachLayerInBothPasses) {
  int64_t layers = 0;
  const auto model = LlamaModel::Random(TinyConfig(), 7, {.layer_done = [&layers] { ++layers; }});
  ASSERT_TRUE(model.ok()) << model.status();
  const auto full = (*model)->TrainAllWeights();
  ASSERT_TRUE(full.ok()) << full.status();
  const LossResult loss = (*model)->ForwardLoss(TwoSamples(1), nullptr, {.training = true, .gradient_checkpointing = true});
  EXPECT_EQ(layers, 2);
  loss.sum.backward();
  EXPECT_EQ(layers, 2 + 2 * 7 + 1);  // each linear layer, the embedding
}

}  // namespace
}  // namespace sbora::trainer
