#include "worker/trainer/optim/adamw.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace sbora::trainer {
namespace {

at::Tensor Values(const std::vector<double>& values) {
  return at::tensor(values, at::kDouble).to(at::kFloat).contiguous();
}

/// torch.optim.AdamW and clip_grad_norm_ written out, in double.
struct Reference {
  std::vector<double> p, m, v;
  int64_t step = 0;

  void Step(std::vector<double> g, double rate, const AdamWOptions& o, double max_norm) {
    double norm = 0;
    for (const double x : g) norm += x * x;
    norm = std::sqrt(norm);
    if (max_norm > 0 && max_norm / (norm + 1e-6) < 1) {
      for (double& x : g) x *= max_norm / (norm + 1e-6);
    }
    ++step;
    const double c1 = 1 - std::pow(o.beta1, static_cast<double>(step));
    const double c2 = 1 - std::pow(o.beta2, static_cast<double>(step));
    for (size_t i = 0; i < p.size(); ++i) {
      p[i] *= 1 - rate * o.weight_decay;
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
      p[i] -= rate / c1 * m[i] / (std::sqrt(v[i]) / std::sqrt(c2) + o.epsilon);
    }
  }
};

TEST(AdamWTest, AStepIsSeenInTheVersion) {
  const at::Tensor parameters = Values({1, 2, 3});
  const at::Tensor view = parameters.narrow(0, 1, 2);
  const auto before = view._version();
  AdamW(parameters, {}).Step(parameters, Values({1, 1, 1}), at::zeros({}), 0.1, 0);
  EXPECT_GT(parameters._version(), before);
  EXPECT_EQ(view._version(), parameters._version());
}

TEST(AdamWTest, EqualsTheFormulasOverSteps) {
  for (const double max_norm : {0.0, 0.5, 100.0}) {
    for (const double decay : {0.0, 0.1}) {
      SCOPED_TRACE(testing::Message() << "max_norm " << max_norm << " decay " << decay);
      const AdamWOptions options{.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = decay};
      // 19 elements: the vectorised body and its tail.
      std::vector<double> start;
      for (int i = 0; i < 19; ++i) start.push_back(0.1 * i - 0.7);
      Reference reference{start, std::vector<double>(19), std::vector<double>(19)};
      at::Tensor parameters = Values(start);
      AdamW optimizer(parameters, options);
      for (int step = 0; step < 5; ++step) {
        std::vector<double> gradient;
        for (int i = 0; i < 19; ++i) gradient.push_back(std::sin(1.0 + i + 3 * step));
        reference.Step(gradient, 0.01, options, max_norm);
        at::Tensor g = Values(gradient);
        const auto report = AdamW::Read(optimizer.Step(parameters, g, at::scalar_tensor(1.5), 0.01, max_norm));
        EXPECT_TRUE(report.finite);
        EXPECT_EQ(report.loss_sum, 1.5);
      }
      for (int i = 0; i < 19; ++i) EXPECT_NEAR(parameters[i].item<float>(), reference.p[static_cast<size_t>(i)], 2e-6);
    }
  }
}

TEST(AdamWTest, AStateInPagesGivesTheSameBits) {
  constexpr int64_t kCount = 103;
  const at::Tensor start = at::arange(kCount, at::kFloat).sin();
  // Many pages, two, one. Of whole vectors, as kPageElements is: the CPU rounds the odd ones at the end otherwise.
  for (const int64_t page : {16, 64, 112}) {
    SCOPED_TRACE(page);
    at::Tensor plain = start.clone(), paged = start.clone();
    AdamW expected(plain, {.weight_decay = 0.1}), optimizer(paged, {.weight_decay = 0.1}, page);
    for (int step = 1; step <= 4; ++step) {
      const at::Tensor gradient = (start * step).cos();
      expected.Step(plain, gradient.clone(), at::zeros({}), 0.01, 1.0);
      optimizer.Step(paged, gradient.clone(), at::zeros({}), 0.01, 1.0);
      EXPECT_TRUE(at::equal(plain, paged));
      for (size_t t = 0; t < 2; ++t) EXPECT_TRUE(at::equal(expected.State()[t].value, optimizer.State()[t].value));
    }
  }
}

TEST(AdamWTest, ReportsTheNormBeforeClipping) {
  at::Tensor parameters = at::zeros({2});
  AdamW optimizer(parameters, {});
  const auto report =
      AdamW::Read(optimizer.Step(parameters, Values({3, 4}), at::scalar_tensor(0.0), 0.1, /*max_gradient_norm=*/1.0));
  EXPECT_NEAR(report.gradient_norm, 5.0, 1e-6);
}

TEST(AdamWTest, ANumberThatIsNotFiniteStopsThisAndAllLaterUpdates) {
  const double inf = std::numeric_limits<double>::infinity();
  struct Case {
    const char* title;
    double gradient, loss;
  };
  for (const auto& [title, gradient, loss] :
       {Case{"gradient NaN", std::nan(""), 1.0}, Case{"gradient infinite", inf, 1.0}, Case{"loss NaN", 1.0, std::nan("")}}) {
    SCOPED_TRACE(title);
    at::Tensor parameters = Values({1, 2});
    AdamW optimizer(parameters, {});
    EXPECT_TRUE(AdamW::Read(optimizer.Step(parameters, Values({1, 1}), at::scalar_tensor(1.0), 0.1, 1.0)).finite);
    const at::Tensor good = parameters.clone();
    const at::Tensor good_moment = optimizer.State()[0].value.clone();
    const auto bad = AdamW::Read(optimizer.Step(parameters, Values({gradient, 1}), at::scalar_tensor(loss), 0.1, 1.0));
    EXPECT_FALSE(bad.finite);
    const auto after = AdamW::Read(optimizer.Step(parameters, Values({1, 1}), at::scalar_tensor(1.0), 0.1, 1.0));
    EXPECT_FALSE(after.finite);
    EXPECT_TRUE(at::equal(parameters, good));
    EXPECT_TRUE(at::equal(optimizer.State()[0].value, good_moment));
  }
}

}  // namespace
}  // namespace sbora::trainer
