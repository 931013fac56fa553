// Full fine-tuning's one vector: it is the model, it covers every weight once, and gradients of micro-batches add up.
#include "worker/trainer/nn/full_weights.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/unit/trainer_nn/tiny_llama.h"

namespace sbora::trainer {
namespace {

using testing::AllRows;
using testing::MaxDifference;
using testing::RandomIds;
using testing::TinyConfig;
using testing::TinyModel;

core::ModelConfig Config(bool tied) {
  core::ModelConfig config = TinyConfig();
  config.tie_word_embeddings = tied;
  return config;
}

PackedBatch Batch(std::initializer_list<uint32_t> seeds) {
  PackedBatch batch;
  for (const uint32_t seed : seeds) batch.Append(seed, RandomIds(5 + seed, seed));
  return batch;
}

class FullWeightsTest : public ::testing::TestWithParam<bool> {};

TEST_P(FullWeightsTest, TheModelKeepsItsBitsAndLivesInTheVector) {
  const auto model = TinyModel(Config(GetParam()));
  const PackedBatch batch = Batch({1, 2});
  const at::Tensor before = model->Logits(batch, AllRows(batch), nullptr);
  const auto full = model->TrainAllWeights();
  ASSERT_TRUE(full.ok()) << full.status();
  EXPECT_EQ((*full)->parameter_count(), core::ParameterCount(model->config()));
  EXPECT_TRUE(at::equal(model->Logits(batch, AllRows(batch), nullptr), before));
  at::Tensor parameters = (*full)->parameters();
  parameters.mul_(1.5);
  EXPECT_FALSE(at::equal(model->Logits(batch, AllRows(batch), nullptr), before));
  const auto named = model->NamedTensors();
  ASSERT_EQ(named.size(), (*full)->entries().size());
  int64_t offset = 0;
  std::set<std::string> names;
  for (const FullWeights::Entry& entry : (*full)->entries()) {
    EXPECT_EQ(entry.offset, offset);
    offset += entry.size;
    EXPECT_TRUE(names.insert(entry.spec.name).second) << entry.spec.name;
  }
  EXPECT_EQ(offset, (*full)->parameter_count());
  for (const auto& [name, tensor] : named) EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_EQ(names.contains("lm_head.weight"), !GetParam());
}

TEST_P(FullWeightsTest, GradientsOfMicroBatchesAddUpAndAreRepeatable) {
  const auto model = TinyModel(Config(GetParam()));
  const auto full = model->TrainAllWeights();
  ASSERT_TRUE(full.ok()) << full.status();
  const auto gradient = [&](std::initializer_list<std::initializer_list<uint32_t>> micro_batches) {
    (*full)->ZeroGradients();
    for (const auto& seeds : micro_batches) {
      (model->ForwardLoss(Batch(seeds), nullptr, {.training = true}).sum / 20).backward();
    }
    return (*full)->gradients().clone();
  };
  const at::Tensor whole = gradient({{1, 2, 3}});
  EXPECT_TRUE(at::equal(gradient({{1, 2, 3}}), whole));
  EXPECT_LT(MaxDifference(gradient({{1}, {2, 3}}), whole), 1e-5 * whole.abs().max().item<double>());
  EXPECT_GT((whole != 0).to(at::kFloat).mean().item<double>(), 0.8);  // an embedding row that is not used has none
}

TEST_P(FullWeightsTest, WithoutTrainingThereIsNoGraph) {
  const auto model = TinyModel(Config(GetParam()));
  ASSERT_TRUE(model->TrainAllWeights().ok());
  EXPECT_FALSE(model->ForwardLoss(Batch({1}), nullptr, {.training = false}).sum.requires_grad());
}

INSTANTIATE_TEST_SUITE_P(Heads, FullWeightsTest, ::testing::Values(true, false),
                         [](const auto& info) { return info.param ? "Tied" : "Own"; });

TEST(FullWeights, AQuantisedBaseIsRefused) {
  const auto model = LlamaModel::Random(TinyConfig(), 7, {.quantization = {.kind = core::Quantization::kNf4, .double_quantization = true}});
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->TrainAllWeights().status().reason(), "FULL_ON_QUANTIZED_BASE");
}

TEST(FullWeights, WeightsInHalfPrecisionAreRefused) {
  const auto model = LlamaModel::Random(TinyConfig(), 7, {.dtype = at::kBFloat16});
  ASSERT_TRUE(model.ok()) << model.status();
  const Status refused = (*model)->TrainAllWeights().status();
  EXPECT_EQ(refused.code(), StatusCode::kUnimplemented);
  EXPECT_EQ(refused.reason(), "FULL_DTYPE");
  EXPECT_EQ(refused.message(), "full fine-tuning trains float32 weights, these are BFloat16; set resources.compute_dtype "
                               "to float32");
}

}  // namespace
}  // namespace sbora::trainer
