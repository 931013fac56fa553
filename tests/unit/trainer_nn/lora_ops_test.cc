// LoRA's and DoRA's linear layers against the plain formulas in double: values, autograd, finite differences.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/unit/trainer_nn/tiny_llama.h"
#include "worker/trainer/ops/adapter_linear.h"
#include "worker/trainer/ops/dropout_mask.h"

namespace sbora::trainer {
namespace {

using core::AdapterMethod;
using core::FrozenFactor;
using core::LinearModule;
using testing::MaxDifference;

constexpr int64_t kTokens = 13;

at::Tensor Normal(at::IntArrayRef shape, uint64_t seed) {
  auto generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator);
}

at::Tensor DoubleLeaf(const at::Tensor& value) { return value.detach().to(at::kDouble).requires_grad_(); }

struct Case {
  AdapterMethod method;
  LinearModule linear;
  int64_t rank;
  float dropout;
  FrozenFactor frozen_a = FrozenFactor::kNone;
  bool rank_stabilized = false;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << core::AdapterMethodName(c.method) << " " << core::LinearModuleName(c.linear) << " r=" << c.rank
       << " p=" << c.dropout << " frozen " << core::FrozenFactorName(c.frozen_a) << (c.rank_stabilized ? " rs" : "");
}

/// One module in layer 1 with a random input, weight and output gradient.
class Layer {
 public:
  explicit Layer(const Case& c) : dropout_(c.dropout) {
    const AdapterOptions options{.method = c.method, .rank = c.rank, .alpha = 3, .dropout = c.dropout,
                                 .rank_stabilized = c.rank_stabilized, .frozen_a = c.frozen_a,
                                 .modules = {{.layer = 1, .module = c.linear}}};
    auto created = AdapterSet::Create(testing::TinyConfig(), options, at::kCPU);
    SBORA_CHECK(created.ok(), "{}", created.status().ToString());
    adapter = std::move(created).value();
    testing::Randomize(*adapter);
    w_OI = Normal({module().out_features, module().in_features}, 1);
    x_TI = Normal({kTokens, module().in_features}, 2);
    g_TO = Normal({kTokens, module().out_features}, 3);
    if (c.method == AdapterMethod::kDora) {
      at::Tensor magnitude_O = module().Magnitude().value;
      magnitude_O.mul_(w_OI.norm(2, {1}));
    }
    if (c.dropout == 0) return;
    auto rows = std::make_shared<ops::DropoutRows>();
    rows->key = ops::MakeDropoutKey(5, 1);
    for (int64_t t = 0; t < kTokens; ++t) {
      rows->sample_T.push_back(static_cast<uint64_t>(t / 4));
      rows->position_T.push_back(static_cast<uint32_t>(t % 4));
    }
    plan = {.rows = rows, .probability = c.dropout};
  }

  const AdapterModule& module() const { return adapter->modules()[0]; }
  at::Tensor Forward(const at::Tensor& x, bool train) const {
    return ops::AdapterLinear(x, w_OI, *adapter, module(), plan, train);
  }
  at::Tensor Mask() const {
    if (dropout_ == 0) return at::ones_like(x_TI, at::kDouble);
    return ops::FullMask(x_TI, *plan.rows, module().dropout_id, dropout_).to(at::kDouble);
  }

  std::unique_ptr<AdapterSet> adapter;
  at::Tensor w_OI, x_TI, g_TO;
  ops::DropoutPlan plan;

 private:
  float dropout_;
};

/// The formulas in double. DoRA as PEFT has it, its norm a constant.
struct Reference {
  at::Tensor x, a, b, m;  // leaves; m undefined for LoRA
  at::Tensor w, mask, norm_O;
  double scale;

  explicit Reference(const Layer& layer)
      : x(DoubleLeaf(layer.x_TI)),
        a(DoubleLeaf(layer.module().A().value)),
        b(DoubleLeaf(layer.module().B().value)),
        w(layer.w_OI.to(at::kDouble)),
        mask(layer.Mask()),
        scale(layer.adapter->modules()[0].scale) {
    if (layer.adapter->method() != AdapterMethod::kDora) return;
    m = DoubleLeaf(layer.module().Magnitude().value);
    norm_O = (w + scale * at::mm(b, a)).norm(2, {1}).detach();
  }

  at::Tensor Value() const {
    const at::Tensor base = at::mm(x, w.t());
    const at::Tensor lora = at::mm(at::mm(x * mask, a.t()), b.t()) * scale;
    if (!m.defined()) return base + lora;
    return base + (m / norm_O - 1) * at::mm(x * mask, w.t()) + (m / norm_O) * lora;
  }
};

class LoraLinearTest : public ::testing::TestWithParam<Case> {};

TEST_P(LoraLinearTest, ValueAndGradientsEqualTheFormula) {
  const Layer layer(GetParam());
  const at::Tensor x = layer.x_TI.clone().requires_grad_();
  const at::Tensor y = layer.Forward(x, /*train=*/true);
  (y * layer.g_TO).sum().backward();

  const Reference reference(layer);
  const at::Tensor y_ref = reference.Value();
  (y_ref * layer.g_TO.to(at::kDouble)).sum().backward();
  // Float32 sums of up to 48 terms: some 1e-6 of the largest entry.
  const auto near = [](const at::Tensor& ours, const at::Tensor& theirs, const char* what) {
    const double largest = theirs.abs().max().item<double>();
    EXPECT_GT(largest, 0.1) << what;
    EXPECT_LT(MaxDifference(ours, theirs), 5e-6 * largest) << what;
  };
  near(y, y_ref, "y");
  near(x.grad(), reference.x.grad(), "dx");
  near(layer.module().B().gradient, reference.b.grad(), "dB");
  if (GetParam().frozen_a == FrozenFactor::kNone) near(layer.module().A().gradient, reference.a.grad(), "dA");
  if (reference.m.defined()) near(layer.module().Magnitude().gradient, reference.m.grad(), "dm");
  EXPECT_TRUE(at::equal(layer.Forward(layer.x_TI, /*train=*/false), y.detach()));
}

TEST_P(LoraLinearTest, GradientsAreTheSlopesOfTheFormula) {
  const Layer layer(GetParam());
  const at::Tensor x = layer.x_TI.clone().requires_grad_();
  (layer.Forward(x, /*train=*/true) * layer.g_TO).sum().backward();
  Reference reference(layer);
  const at::NoGradGuard no_grad;
  const at::Tensor g = layer.g_TO.to(at::kDouble);
  const auto slope = [&](at::Tensor& leaf, const at::Tensor& direction) {
    constexpr double kStep = 1e-3;  // the formula is linear in each of them: any step will do
    const at::Tensor start = leaf;
    leaf = start + kStep * direction;
    const double up = (reference.Value() * g).sum().item<double>();
    leaf = start - kStep * direction;
    const double down = (reference.Value() * g).sum().item<double>();
    leaf = start;
    return (up - down) / (2 * kStep);
  };
  const auto check = [&](at::Tensor& leaf, const at::Tensor& gradient) {
    const at::Tensor wide = gradient.to(at::kDouble);
    const at::Tensor direction = wide / wide.norm();  // the slope along the gradient is its length
    EXPECT_NEAR(slope(leaf, direction) / wide.norm().item<double>(), 1, 1e-5);
    const at::Tensor other = Normal(gradient.sizes(), 9).to(at::kDouble);
    EXPECT_NEAR(slope(leaf, other), (wide * other).sum().item<double>(), 1e-4 * wide.norm().item<double>());
  };
  check(reference.x, x.grad());
  check(reference.b, layer.module().B().gradient);
  if (GetParam().frozen_a == FrozenFactor::kNone) check(reference.a, layer.module().A().gradient);
  if (reference.m.defined()) check(reference.m, layer.module().Magnitude().gradient);
}

TEST_P(LoraLinearTest, GradientsAddUpAndTheHookNamesTheModuleOnce) {
  const Layer layer(GetParam());
  std::vector<std::string> announced;
  layer.adapter->SetGradientReadyHook([&](const AdapterModule& done) { announced.push_back(done.name); });
  const auto run = [&] { (layer.Forward(layer.x_TI, true) * layer.g_TO).sum().backward(); };  // x needs no gradient
  run();
  EXPECT_THAT(announced, ::testing::ElementsAre(layer.module().name));
  const at::Tensor once = layer.adapter->gradients().clone();
  EXPECT_EQ(once.count_nonzero().item<int64_t>(), layer.adapter->parameter_count());
  run();
  EXPECT_LT(MaxDifference(layer.adapter->gradients(), once * 2), 1e-5 * once.abs().max().item<double>());
}

// Rank 1, one between, and the most each shape allows: q [32, 32], k [16, 32], down [32, 48].
INSTANTIATE_TEST_SUITE_P(
    All, LoraLinearTest,
    ::testing::Values(Case{AdapterMethod::kLora, LinearModule::kQ, 1, 0}, Case{AdapterMethod::kLora, LinearModule::kK, 16, 0},
                      Case{AdapterMethod::kLora, LinearModule::kDown, 5, 0.3f},
                      Case{AdapterMethod::kLora, LinearModule::kDown, 32, 0.3f, FrozenFactor::kNone, true},
                      Case{AdapterMethod::kLora, LinearModule::kK, 5, 0, FrozenFactor::kRandom},
                      Case{AdapterMethod::kLora, LinearModule::kUp, 32, 0.3f, FrozenFactor::kOrthonormal},
                      Case{AdapterMethod::kDora, LinearModule::kQ, 1, 0}, Case{AdapterMethod::kDora, LinearModule::kK, 16, 0},
                      Case{AdapterMethod::kDora, LinearModule::kUp, 5, 0, FrozenFactor::kNone, true},
                      Case{AdapterMethod::kDora, LinearModule::kK, 1, 0.3f},
                      Case{AdapterMethod::kDora, LinearModule::kDown, 5, 0.3f},
                      Case{AdapterMethod::kDora, LinearModule::kDown, 32, 0.3f}));

TEST(LoraLinear, AFrozenANeedsNothingOfTheInput) {
  for (const FrozenFactor frozen : {FrozenFactor::kNone, FrozenFactor::kRandom}) {
    const Layer layer({AdapterMethod::kLora, LinearModule::kQ, 4, 0, frozen});
    const auto before = layer.x_TI.storage().use_count();
    const at::Tensor y = layer.Forward(layer.x_TI, /*train=*/true);
    EXPECT_TRUE(y.requires_grad());
    EXPECT_EQ(layer.x_TI.storage().use_count() - before, frozen == FrozenFactor::kNone ? 1 : 0);
  }
}

TEST(RowNorms, EqualTheNormsOfTheSumAndFollowTheParameters) {
  for (const int64_t rank : {1, 5, 32}) {
    const Layer layer({AdapterMethod::kDora, LinearModule::kDown, rank, 0});
    const auto direct = [&] {
      const at::Tensor update = at::mm(layer.module().B().value.to(at::kDouble), layer.module().A().value.to(at::kDouble));
      return (layer.w_OI.to(at::kDouble) + layer.adapter->modules()[0].scale * update).norm(2, {1});
    };
    const auto relative_error = [&] {
      return (layer.adapter->RowNorms(layer.module(), layer.w_OI).to(at::kDouble) / direct() - 1).abs().max().item<double>();
    };
    EXPECT_LT(relative_error(), 5e-7);
    const at::Tensor first = layer.adapter->RowNorms(layer.module(), layer.w_OI);
    EXPECT_TRUE(layer.adapter->RowNorms(layer.module(), layer.w_OI).is_same(first));  // remembered
    at::Tensor parameters = layer.adapter->parameters();
    parameters.mul_(3);
    EXPECT_GT(MaxDifference(layer.adapter->RowNorms(layer.module(), layer.w_OI), first), 0.1);
    EXPECT_LT(relative_error(), 5e-7);
    at::Tensor b_OR = layer.module().B().value;
    b_OR.zero_();  // through a view
    EXPECT_LT(relative_error(), 5e-7);
  }
}

}  // namespace
}  // namespace sbora::trainer
