// Hand-written backward passes against autograd of the plain formulas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "tests/unit/trainer_nn/tiny_llama.h"
#include "worker/trainer/ops/attention.h"
#include "worker/trainer/ops/chunked_loss.h"
#include "worker/trainer/ops/dropout_mask.h"
#include "worker/trainer/ops/frozen_layers.h"
#include "worker/trainer/ops/sbora_linear.h"

namespace sbora::trainer {
namespace {

using core::AdapterMethod;
using core::LinearModule;
using testing::MaxDifference;
using testing::TinyAdapter;

at::Tensor Normal(at::IntArrayRef shape, uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator);
}

at::Tensor Leaf(const at::Tensor& value) { return value.detach().clone().requires_grad_(); }

std::shared_ptr<ops::DropoutRows> Rows(int64_t count) {
  auto rows = std::make_shared<ops::DropoutRows>();
  rows->key = ops::MakeDropoutKey(5, 1);
  for (int64_t i = 0; i < count; ++i) {
    rows->sample_T.push_back(static_cast<uint64_t>(i / 4) + (uint64_t{1} << 40));
    rows->position_T.push_back(static_cast<uint32_t>(i % 4));
  }
  return rows;
}

class SboraLinearTest : public ::testing::TestWithParam<std::tuple<AdapterMethod, LinearModule, float>> {};

TEST_P(SboraLinearTest, ValueAndGradientsEqualTheDenseFormula) {
  const auto [method, linear, dropout] = GetParam();
  auto adapter = TinyAdapter(method, dropout);
  const AdapterModule& module = *adapter->Find(1, linear);
  const int64_t tokens = 13;
  const at::Tensor w_OI = Normal({module.out_features, module.in_features}, 1);
  const at::Tensor x_TI = Normal({tokens, module.in_features}, 2);
  const at::Tensor weight_TO = Normal({tokens, module.out_features}, 3);
  const ops::DropoutPlan plan{.rows = dropout > 0 ? Rows(tokens) : nullptr, .probability = dropout};

  const at::Tensor x = Leaf(x_TI);
  const at::Tensor y = ops::SboraLinear(x, w_OI, *adapter, module, plan, /*train=*/true);
  (y * weight_TO).sum().backward();

  // h = W0 x + s * (one-hot products) with a materialised one-hot matrix, in double.
  const at::Tensor x_ref = Leaf(x_TI.to(at::kDouble));
  const AdapterTensor& factor = method == AdapterMethod::kSboraFa ? module.B() : module.A();
  const at::Tensor factor_ref = Leaf(factor.value.to(at::kDouble));
  const at::Tensor mask = dropout > 0
                              ? ops::FullMask(x_TI, *plan.rows, module.dropout_id, dropout).to(at::kDouble)
                              : at::ones_like(x_ref).detach();
  const int64_t dim = method == AdapterMethod::kSboraFa ? module.in_features : module.out_features;
  const at::Tensor one_hot_RD = at::one_hot(module.index_R.to(at::kLong), dim).to(at::kDouble);
  const at::Tensor update = method == AdapterMethod::kSboraFa ? at::mm(factor_ref, one_hot_RD)
                                                              : at::mm(one_hot_RD.t(), factor_ref);
  const at::Tensor y_ref =
      at::mm(x_ref, w_OI.to(at::kDouble).t()) + adapter->modules()[0].scale * at::mm(x_ref * mask, update.t());
  (y_ref * weight_TO.to(at::kDouble)).sum().backward();

  EXPECT_LT(MaxDifference(y, y_ref), 2e-5);
  EXPECT_LT(MaxDifference(x.grad(), x_ref.grad()), 2e-5);
  EXPECT_LT(MaxDifference(factor.gradient, factor_ref.grad()), 5e-5);
  EXPECT_GT(factor.gradient.abs().max().item<double>(), 0.1);
}

INSTANTIATE_TEST_SUITE_P(All, SboraLinearTest,
                         ::testing::Combine(::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kSboraFb),
                                            ::testing::Values(LinearModule::kQ, LinearModule::kK, LinearModule::kUp,
                                                              LinearModule::kDown),
                                            ::testing::Values(0.0f, 0.3f)));

TEST(SboraLinear, GradientsAddUpAndTheHookNamesTheModule) {
  auto adapter = TinyAdapter(AdapterMethod::kSboraFa);
  const AdapterModule& module = *adapter->Find(0, LinearModule::kUp);
  std::vector<std::string> announced;
  adapter->SetGradientReadyHook([&](const AdapterModule& done) { announced.push_back(done.name); });
  const at::Tensor w_OI = Normal({module.out_features, module.in_features}, 1);
  const at::Tensor x_TI = Normal({6, module.in_features}, 2);  // requires no gradient: the first block's case
  const auto run = [&] { ops::SboraLinear(x_TI, w_OI, *adapter, module, {}, true).sum().backward(); };
  run();
  const at::Tensor once = adapter->gradients().clone();
  run();
  EXPECT_LT(MaxDifference(adapter->gradients(), once * 2), 1e-4);  // the sum is formed inside the product
  EXPECT_THAT(announced, ::testing::ElementsAre(module.name, module.name));
  EXPECT_EQ(once.count_nonzero().item<int64_t>(), module.size);
  adapter->ZeroGradients();
  EXPECT_EQ(module.B().gradient.abs().sum().item<float>(), 0);
}

TEST(FrozenLinear, PassesTheInputGradientOnly) {
  const at::Tensor w_OI = Normal({5, 7}, 1);
  const at::Tensor x = Leaf(Normal({3, 7}, 2));
  const at::Tensor g = Normal({3, 5}, 3);
  (ops::FrozenLinear(x, w_OI) * g).sum().backward();
  EXPECT_LT(MaxDifference(x.grad(), at::mm(g, w_OI)), 1e-6);
  EXPECT_FALSE(ops::FrozenLinear(x.detach(), w_OI).requires_grad());
}

TEST(RmsNorm, EqualsAutogradOfTheFormula) {
  const at::Tensor x = Leaf(Normal({9, 32}, 1));
  const at::Tensor x_ref = Leaf(x.detach().to(at::kDouble));
  const at::Tensor weight_H = Normal({32}, 2);
  const at::Tensor g = Normal({9, 32}, 3);
  const at::Tensor y = ops::RmsNorm(x, weight_H, 1e-5);
  (y * g).sum().backward();
  const at::Tensor y_ref =
      x_ref * (x_ref.square().mean(-1, true) + 1e-5).rsqrt() * weight_H.to(at::kDouble);
  (y_ref * g.to(at::kDouble)).sum().backward();
  EXPECT_LT(MaxDifference(y, y_ref), 1e-5);
  EXPECT_LT(MaxDifference(x.grad(), x_ref.grad()), 1e-5);
}

TEST(RmsNorm, TheSumBeforeItAndTheWeightsGradientEqualAutogradOfTheFormula) {
  const at::Tensor x = Leaf(Normal({9, 70}, 1));
  const at::Tensor y = Leaf(Normal({9, 70}, 2));
  const at::Tensor weight_H = Normal({70}, 3);
  const at::Tensor g_sum = Normal({9, 70}, 4);
  const at::Tensor g_normed = Normal({9, 70}, 5);
  at::Tensor weight_gradient_H = at::ones({70});
  const auto [sum, normed] = ops::AddRmsNorm(x, y, weight_H, 1e-5, weight_gradient_H);
  (sum * g_sum + normed * g_normed).sum().backward();

  const at::Tensor x_ref = Leaf(x.detach().to(at::kDouble));
  const at::Tensor y_ref = Leaf(y.detach().to(at::kDouble));
  const at::Tensor weight_ref = Leaf(weight_H.to(at::kDouble));
  const at::Tensor sum_ref = x_ref + y_ref;
  const at::Tensor normed_ref = sum_ref * (sum_ref.square().mean(-1, true) + 1e-5).rsqrt() * weight_ref;
  (sum_ref * g_sum.to(at::kDouble) + normed_ref * g_normed.to(at::kDouble)).sum().backward();
  EXPECT_LT(MaxDifference(sum, sum_ref), 1e-6);
  EXPECT_LT(MaxDifference(normed, normed_ref), 1e-5);
  EXPECT_LT(MaxDifference(x.grad(), x_ref.grad()), 1e-5);
  EXPECT_LT(MaxDifference(y.grad(), y_ref.grad()), 1e-5);
  EXPECT_LT(MaxDifference(weight_gradient_H - 1, weight_ref.grad()), 1e-4);
}

TEST(RmsNorm, EachOfTheSumsOutputsMayGoUnused) {
  const at::Tensor x = Leaf(Normal({3, 8}, 1));
  const at::Tensor y = Normal({3, 8}, 2);
  const at::Tensor weight_H = Normal({8}, 3);
  ops::AddRmsNorm(x, y, weight_H, 1e-5).sum_TH.sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), at::ones({3, 8})));
  const at::Tensor z = Leaf(x.detach());
  ops::AddRmsNorm(z, y, weight_H, 1e-5).normed_TH.sum().backward();
  const at::Tensor h = Leaf(x.detach() + y);
  ops::RmsNorm(h, weight_H, 1e-5).sum().backward();
  EXPECT_TRUE(at::equal(z.grad(), h.grad()));
}

TEST(Layers, PartsOfAWiderMatrixAreReadInPlace) {
  const at::Tensor wide = Normal({5, 40}, 1);
  const at::Tensor angles_TD2 = Normal({5, 4}, 2);
  EXPECT_TRUE(at::equal(ops::SwiGlu(wide.slice(1, 3, 14), wide.slice(1, 20, 31)),
                        ops::SwiGlu(wide.slice(1, 3, 14).contiguous(), wide.slice(1, 20, 31).contiguous())));
  EXPECT_TRUE(at::equal(ops::Rope(wide.slice(1, 8, 24), angles_TD2.cos(), angles_TD2.sin(), 8),
                        ops::Rope(wide.slice(1, 8, 24).contiguous(), angles_TD2.cos(), angles_TD2.sin(), 8)));
}

TEST(SwiGlu, EqualsAutogradOfTheFormula) {
  const at::Tensor gate = Leaf(Normal({5, 11}, 1));
  const at::Tensor up = Leaf(Normal({5, 11}, 2));
  const at::Tensor gate_ref = Leaf(gate.detach().to(at::kDouble));
  const at::Tensor up_ref = Leaf(up.detach().to(at::kDouble));
  const at::Tensor g = Normal({5, 11}, 3);
  (ops::SwiGlu(gate, up) * g).sum().backward();
  (gate_ref * gate_ref.sigmoid() * up_ref * g.to(at::kDouble)).sum().backward();
  EXPECT_LT(MaxDifference(gate.grad(), gate_ref.grad()), 1e-5);
  EXPECT_LT(MaxDifference(up.grad(), up_ref.grad()), 1e-5);
}

TEST(Rope, RotatesHalvesAndItsGradientRotatesBack) {
  const at::Tensor angles_TD2 = Normal({6, 4}, 1);
  const at::Tensor x = Leaf(Normal({6, 24}, 2));
  const at::Tensor g = Normal({6, 24}, 3);
  const at::Tensor y = ops::Rope(x, angles_TD2.cos(), angles_TD2.sin(), 8);
  // Hugging Face's rotate_half with tables repeated for both halves.
  const auto table = [](const at::Tensor& t) { return at::cat({t, t}, -1).unsqueeze(1); };
  const at::Tensor heads = x.detach().view({6, 3, 8});
  const at::Tensor turned = at::cat({-heads.slice(-1, 4, 8), heads.slice(-1, 0, 4)}, -1);
  const at::Tensor y_ref = heads * table(angles_TD2.cos()) + turned * table(angles_TD2.sin());
  EXPECT_LT(MaxDifference(y, y_ref.view({6, 24})), 1e-6);
  (y * g).sum().backward();
  EXPECT_LT(MaxDifference(x.grad(), ops::Rope(g, angles_TD2.cos(), -angles_TD2.sin(), 8)), 1e-6);
}

TEST(Attention, EqualsMaskedSoftmaxWithGroupsAndEmptySamples) {
  const int64_t head_dim = 8;
  const std::vector<int64_t> borders{0, 5, 5, 6, 13};
  const at::Tensor q = Leaf(Normal({13, 32}, 1));
  const at::Tensor k = Leaf(Normal({13, 16}, 2));
  const at::Tensor v = Leaf(Normal({13, 16}, 3));
  const at::Tensor g = Normal({13, 32}, 4);
  const at::Tensor out = ops::PackedCausalAttention(q, k, v, head_dim, ops::MakeSampleBorders(borders, at::kCPU));
  (out * g).sum().backward();

  const at::Tensor q_ref = Leaf(q.detach().to(at::kDouble));
  const at::Tensor k_ref = Leaf(k.detach().to(at::kDouble));
  const at::Tensor v_ref = Leaf(v.detach().to(at::kDouble));
  at::Tensor allowed = at::zeros({13, 13}, at::kBool);
  for (size_t n = 0; n + 1 < borders.size(); ++n) {
    const int64_t length = borders[n + 1] - borders[n];
    allowed.slice(0, borders[n], borders[n + 1]).slice(1, borders[n], borders[n + 1])
        .copy_(at::ones({length, length}, at::kBool).tril());
  }
  const auto heads = [&](const at::Tensor& x, int64_t repeat) {
    return x.view({13, -1, head_dim}).transpose(0, 1).repeat_interleave(repeat, 0);
  };
  const at::Tensor scores = at::bmm(heads(q_ref, 1), heads(k_ref, 2).transpose(1, 2)) / std::sqrt(double{head_dim});
  const at::Tensor p = scores.masked_fill(allowed.logical_not(), -1e300).softmax(-1);
  const at::Tensor out_ref = at::bmm(p, heads(v_ref, 2)).transpose(0, 1).reshape({13, 32});
  (out_ref * g.to(at::kDouble)).sum().backward();
  EXPECT_LT(MaxDifference(out, out_ref), 1e-5);
  EXPECT_LT(MaxDifference(q.grad(), q_ref.grad()), 1e-5);
  EXPECT_LT(MaxDifference(k.grad(), k_ref.grad()), 1e-5);
  EXPECT_LT(MaxDifference(v.grad(), v_ref.grad()), 1e-5);
}

TEST(ChunkedLoss, EqualsLogSoftmaxForEveryChunkSize) {
  const at::Tensor w_VH = Normal({29, 6}, 1);
  const at::Tensor targets = at::arange(10, at::kLong) * 2;
  for (const int64_t chunk : {1, 3, 10, 64}) {
    const at::Tensor h = Leaf(Normal({10, 6}, 2));
    const at::Tensor h_ref = Leaf(h.detach().to(at::kDouble));
    const at::Tensor loss = ops::ChunkedCrossEntropy(h, w_VH, targets, chunk);
    (loss * 0.25).backward();
    const at::Tensor log_p = at::log_softmax(at::mm(h_ref, w_VH.to(at::kDouble).t()), -1);
    const at::Tensor loss_ref = -log_p.gather(1, targets.unsqueeze(1)).sum();
    (loss_ref * 0.25).backward();
    EXPECT_NEAR(loss.item<double>(), loss_ref.item<double>(), 1e-4);
    EXPECT_LT(MaxDifference(h.grad(), h_ref.grad()), 1e-5);
  }
  EXPECT_EQ(ops::ChunkedCrossEntropy(Normal({0, 6}, 2), w_VH, at::empty({0}, at::kLong)).item<float>(), 0);
}

TEST(DropoutMask, ColumnsAreTheFullMasksColumnsAndTheRateIsRight) {
  const int64_t tokens = 200;
  const auto rows = Rows(tokens);
  const at::Tensor full = ops::FullMask(at::zeros({tokens, 50}), *rows, 9, 0.2f);
  const std::vector<int32_t> features{0, 3, 7, 49};
  at::Tensor columns = at::ones({tokens, 4});
  ops::ApplyMaskToColumns(columns, features, *rows, 9, 0.2f);
  EXPECT_TRUE(at::equal(columns, full.index_select(1, at::tensor({0, 3, 7, 49}, at::kLong))));
  EXPECT_NEAR((full == 0).to(at::kFloat).mean().item<double>(), 0.2, 0.02);
  EXPECT_EQ(full.max().item<float>(), 1 / (1 - 0.2f));
  EXPECT_FALSE(at::equal(full, ops::FullMask(full, *rows, 10, 0.2f)));
  auto other = Rows(tokens);
  other->key = ops::MakeDropoutKey(5, 2);
  EXPECT_FALSE(at::equal(full, ops::FullMask(full, *other, 9, 0.2f)));
}

}  // namespace
}  // namespace sbora::trainer
