// The merged form of SBoRA against the plain one: the same losses, gradients and steps within float32's rounding, W0 for
// everybody else, and its bits back at the end.
#include <gtest/gtest.h>
#include <torch/csrc/autograd/function.h>

#include <cmath>
#include <limits>
#include <set>

#include "tests/unit/trainer_nn/tiny_llama.h"
#include "worker/trainer/ops/linear_weight.h"
#include "worker/trainer/ops/sbora_linear.h"

namespace sbora::trainer {
namespace {

using core::AdapterMethod;
using core::LinearModule;
using testing::MaxDifference;
using testing::TinyAdapter;
using testing::TinyConfig;
using testing::TinyModel;
using testing::TwoSamples;

/// Ranks that differ by module, a layer's v, o and gate untouched, q and k with one index vector (share_indices).
std::unique_ptr<AdapterSet> PatternAdapter(AdapterMethod method) {
  AdapterOptions options{.method = method, .rank = 5, .alpha = 10};
  for (const AdapterModuleSpec& spec : testing::AllModules(method, 5)) {
    const bool left_out = spec.module == LinearModule::kV || spec.module == LinearModule::kO || spec.module == LinearModule::kGate;
    if (spec.layer == 1 && left_out) continue;
    options.modules.push_back(spec);
    AdapterModuleSpec& added = options.modules.back();
    if (spec.module == LinearModule::kK && method == AdapterMethod::kSboraFa) {
      added.index = options.modules[options.modules.size() - 2].index;
    }
    if (spec.module != LinearModule::kDown) continue;
    added.rank = 1 + 2 * spec.layer;
    added.alpha = 3;
    added.index.resize(static_cast<size_t>(added.rank));
  }
  auto adapter = AdapterSet::Create(TinyConfig(), options, at::kCPU);
  SBORA_CHECK(adapter.ok(), "{}", adapter.status().ToString());
  testing::Randomize(**adapter);
  return std::move(adapter).value();
}

struct Outcome {
  at::Tensor losses;
  at::Tensor gradients;
};

/// Two micro-batches into the same gradients, as the loop does.
Outcome Pass(const LlamaModel& model, AdapterSet& adapter, bool checkpointing = false) {
  adapter.ZeroGradients();
  std::vector<at::Tensor> losses;
  for (const uint32_t seed : {1u, 2u}) {
    const LossResult loss = model.ForwardLoss(
        TwoSamples(seed), &adapter, {.training = true, .seed = 5, .epoch = 3, .gradient_checkpointing = checkpointing});
    (loss.sum / 40).backward();
    losses.push_back(loss.sum.detach());
  }
  return {at::stack(losses), adapter.gradients().clone()};
}

std::vector<at::Tensor> Bits(const LlamaModel& model) {
  std::vector<at::Tensor> weights;
  for (const auto& [name, tensor] : model.NamedTensors()) weights.push_back(tensor.clone());
  return weights;
}

void ExpectSameBits(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i].view(at::kInt), b[i].view(at::kInt))) << "tensor " << i;
}

class MergedTest : public ::testing::TestWithParam<AdapterMethod> {};

TEST_P(MergedTest, LossAndGradientsAreThoseOfThePlainForm) {
  const auto model = TinyModel();
  for (const bool pattern : {false, true}) {
    SCOPED_TRACE(pattern);
    const auto adapter = pattern ? PatternAdapter(GetParam()) : TinyAdapter(GetParam());
    const Outcome plain = Pass(*model, *adapter);
    model->BeginMerged(*adapter);
    const Outcome merged = Pass(*model, *adapter);
    const Outcome recomputed = Pass(*model, *adapter, /*checkpointing=*/true);
    model->EndMerged();
    EXPECT_LT(MaxDifference(merged.losses / plain.losses, at::ones({2})), 2e-6);
    const double largest = plain.gradients.abs().max().item<double>();
    EXPECT_LT(MaxDifference(merged.gradients, plain.gradients), 1e-5 * largest);
    EXPECT_GT(largest, 1e-3);
    EXPECT_TRUE(at::equal(merged.losses, recomputed.losses));
    EXPECT_TRUE(at::equal(merged.gradients, recomputed.gradients));
  }
}

// Plain gradient descent, steps large enough to move the loss: a stale region would leave the path at once.
TEST_P(MergedTest, TwentyStepsTakeThePathOfThePlainForm) {
  const auto train = [&](bool merged) {
    const auto model = TinyModel();
    const auto adapter = PatternAdapter(GetParam());
    at::Tensor parameters = adapter->parameters();
    parameters.zero_();
    if (merged) model->BeginMerged(*adapter);
    std::vector<at::Tensor> losses;
    for (int step = 0; step < 20; ++step) {
      losses.push_back(Pass(*model, *adapter).losses);
      parameters.add_(adapter->gradients(), -0.1);
    }
    return std::pair(at::stack(losses), parameters.clone());
  };
  const auto [plain, plain_parameters] = train(false);
  const auto [merged, merged_parameters] = train(true);
  EXPECT_LT(MaxDifference(merged / plain, at::ones_like(plain)), 20 * 2e-6);  // of one pass, at each step
  EXPECT_LT(MaxDifference(merged_parameters, plain_parameters), 1e-4 * plain_parameters.abs().max().item<double>());
  EXPECT_LT((plain[19] / plain[0]).max().item<double>(), 0.95);
}

TEST_P(MergedTest, EverybodyElseSeesTheBaseAndItsBitsComeBack) {
  const auto model = TinyModel();
  at::Tensor q_OI = model->Weight(0, LinearModule::kQ);
  q_OI.fill_(-0.0f);  // adding nothing to it would change its bits
  const std::vector<at::Tensor> before = Bits(*model);
  const int64_t bytes = model->WeightBytes();
  const auto adapter = TinyAdapter(GetParam());
  const auto other = PatternAdapter(GetParam());
  const PackedBatch batch = TwoSamples(4);
  const at::Tensor alone = model->ForwardLoss(batch, nullptr, {}).sum;
  const at::Tensor with_other = model->ForwardLoss(batch, other.get(), {}).sum;

  model->BeginMerged(*adapter);
  const at::Tensor with_adapter = model->ForwardLoss(batch, adapter.get(), {}).sum;
  EXPECT_EQ(model->WeightBytes(), bytes + 4 * adapter->parameter_count());
  EXPECT_FALSE(at::equal(q_OI, before[1].new_zeros(q_OI.sizes())));  // the storage itself has changed
  ExpectSameBits(Bits(*model), before);
  EXPECT_TRUE(at::equal(model->ForwardLoss(batch, nullptr, {}).sum, alone));
  EXPECT_TRUE(at::equal(model->ForwardLoss(batch, other.get(), {}).sum, with_other));
  EXPECT_TRUE(at::equal(model->ForwardLoss(batch, adapter.get(), {}).sum, with_adapter));
  EXPECT_GT(MaxDifference(with_adapter, alone), 1e-3);

  model->EndMerged();
  EXPECT_EQ(model->WeightBytes(), bytes);
  EXPECT_TRUE(at::equal(q_OI.view(at::kInt), before[0].new_full(q_OI.sizes(), -0.0f).view(at::kInt)));
  ExpectSameBits(Bits(*model), before);
  model->EndMerged();        // nothing to do
  model->BeginMerged(*other);  // and again
  EXPECT_LT(MaxDifference(model->ForwardLoss(batch, other.get(), {}).sum / with_other, at::ones({})), 2e-6);
}

TEST_P(MergedTest, AParameterThatIsNotFiniteStaysInItsRowOrColumn) {
  const auto model = TinyModel();
  const auto adapter = TinyAdapter(GetParam());
  const AdapterModule& module = *adapter->Find(1, LinearModule::kUp);
  ops::LinearWeight weight(model->Weight(1, LinearModule::kUp));
  weight.BeginMerged(*adapter, module);
  const at::Tensor before = weight.Merged().clone();
  at::Tensor value = (GetParam() == AdapterMethod::kSboraFa ? module.B() : module.A()).value;
  value[2][3] = std::numeric_limits<float>::quiet_NaN();
  at::Tensor parameters = adapter->parameters();
  parameters.add_(0);  // an optimizer's step, whose version tells
  const at::Tensor& after = weight.Merged();
  const bool fa = GetParam() == AdapterMethod::kSboraFa;
  const int64_t row = fa ? 2 : module.index[2];
  const int64_t column = fa ? module.index[3] : 3;
  EXPECT_EQ(at::isnan(after).sum().item<int64_t>(), 1);
  EXPECT_TRUE(std::isnan(after[row][column].item<float>()));
  value[2][3] = 0.25f;
  parameters.add_(0);
  EXPECT_EQ(at::isnan(weight.Merged()).sum().item<int64_t>(), 0);  // it leaves no trace
  const at::Tensor change = (before[row][column] - weight.Dense()[row][column]) / module.scale;
  value[2][3] = change;
  parameters.add_(0);
  EXPECT_LT(MaxDifference(weight.Merged(), before), 1e-6);
}

TEST_P(MergedTest, ValueAndGradientsOfALayerEqualTheFormulaInDouble) {
  const auto adapter = TinyAdapter(GetParam());
  const bool fa = GetParam() == AdapterMethod::kSboraFa;
  for (const LinearModule linear : {LinearModule::kQ, LinearModule::kK, LinearModule::kUp, LinearModule::kDown}) {
    const AdapterModule& module = *adapter->Find(1, linear);
    SCOPED_TRACE(module.name);
    const auto normal = [](at::IntArrayRef shape, uint64_t seed) {
      return at::randn(shape, at::detail::createCPUGenerator(seed));
    };
    const at::Tensor w_OI = normal({module.out_features, module.in_features}, 1);
    const at::Tensor w_ref = w_OI.to(at::kDouble);
    ops::LinearWeight weight(w_OI);
    weight.BeginMerged(*adapter, module);
    const at::Tensor x = normal({13, module.in_features}, 2).requires_grad_();
    const at::Tensor g_TO = normal({13, module.out_features}, 3);
    adapter->ZeroGradients();
    const at::Tensor y = ops::SboraLinear(x, weight, *adapter, module, {}, /*train=*/true);
    (y * g_TO).sum().backward();

    const AdapterTensor& factor = fa ? module.B() : module.A();
    const at::Tensor x_ref = x.detach().to(at::kDouble).requires_grad_();
    const at::Tensor factor_ref = factor.value.detach().to(at::kDouble).requires_grad_();
    const at::Tensor index = module.index_R.to(at::kLong);
    const at::Tensor sum_OI = w_ref.index_add(fa ? 1 : 0, index, factor_ref * module.scale);
    const auto loss = [&](const at::Tensor& input, const at::Tensor& matrix) {
      return (at::mm(input, matrix.t()) * g_TO.to(at::kDouble)).sum();
    };
    loss(x_ref, sum_OI).backward();
    EXPECT_LT(MaxDifference(y, at::mm(x_ref, sum_OI.t())), 2e-5);
    EXPECT_LT(MaxDifference(x.grad(), x_ref.grad()), 2e-5);
    EXPECT_LT(MaxDifference(factor.gradient, factor_ref.grad()), 5e-5);
    // Finite differences, in double.
    for (const int64_t i : {int64_t{0}, factor_ref.numel() / 2, factor_ref.numel() - 1}) {
      at::Tensor step = at::zeros_like(factor_ref).detach();
      step.view({-1})[i] = 1e-4;
      const auto at_factor = [&](const at::Tensor& f) {
        return loss(x_ref.detach(), w_ref.index_add(fa ? 1 : 0, index, f * module.scale)).item<double>();
      };
      const double slope = (at_factor(factor_ref.detach() + step) - at_factor(factor_ref.detach() - step)) / 2e-4;
      EXPECT_NEAR(factor.gradient.reshape({-1})[i].item<double>(), slope, 1e-4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sbora, MergedTest, ::testing::Values(AdapterMethod::kSboraFa, AdapterMethod::kSboraFb));

TEST(InputGradient, GoesThroughEveryFrozenLayer) {
  int64_t layers = 0;
  const auto model = LlamaModel::Random(TinyConfig(), 7, {.layer_done = [&layers] { ++layers; }});
  ASSERT_TRUE(model.ok()) << model.status();
  const at::Tensor plain = (*model)->ForwardLoss(TwoSamples(1), nullptr, {}).sum;
  EXPECT_FALSE(plain.requires_grad());
  for (const bool checkpointing : {false, true}) {
    layers = 0;
    const TrainContext context{.training = true, .input_gradient = true, .gradient_checkpointing = checkpointing};
    const at::Tensor sum = (*model)->ForwardLoss(TwoSamples(1), nullptr, context).sum;
    EXPECT_TRUE(at::equal(sum.detach(), plain));
    ASSERT_TRUE(sum.requires_grad());
    sum.backward();
  }
  // Down to q, k and v of layer 0, and no further: three graph roots below one another's common successor.
  const at::Tensor sum = (*model)->ForwardLoss(TwoSamples(1), nullptr, {.training = true, .input_gradient = true}).sum;
  std::vector<const torch::autograd::Node*> pending{sum.grad_fn().get()};
  std::set<const torch::autograd::Node*> seen;
  int64_t roots = 0;
  while (!pending.empty()) {
    const auto* node = pending.back();
    pending.pop_back();
    if (!seen.insert(node).second) continue;
    bool root = true;
    for (const auto& edge : node->next_edges()) {
      if (!edge.is_valid()) continue;
      root = false;
      pending.push_back(edge.function.get());
    }
    roots += root ? 1 : 0;
  }
  EXPECT_EQ(roots, 3);
}

}  // namespace
}  // namespace sbora::trainer
