// AdamW in 8 bits against files that bitsandbytes' AdamW8bit wrote on the CPU (scripts/numerics/make_adamw8bit_reference.py):
// every code equal, scales and weights to the last bits of float32, step by step and over four steps.
#include "worker/trainer/optim/adamw8bit.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "common/check.h"
#include "core/safetensors.h"
#include "kernels/adamw8bit/adamw8bit_tables.h"

namespace sbora::trainer {
namespace {

constexpr int64_t kLarge = 66 * 70;
constexpr int64_t kSmall = 40;
constexpr int64_t kMinElements = 4096;
constexpr AdamWOptions kOptions{.weight_decay = 0.01};
constexpr double kRate = 1e-3;

class Golden {
 public:
  Golden() : file_(Open()) {}
  /// Flat.
  at::Tensor Get(const std::string& name) const {
    const auto view = file_.Tensor(name);
    SBORA_CHECK(view.ok(), "{}", view.status().ToString());
    at::Tensor tensor = at::empty({view->elements()}, view->dtype == core::DType::kU8 ? at::kByte : at::kFloat);
    std::memcpy(tensor.mutable_data_ptr(), view->data.data(), view->data.size());
    return tensor;
  }
  at::Tensor Both(int64_t step, const char* what) const {
    return at::cat({Get(fmt::format("{}.large.{}", step, what)), Get(fmt::format("{}.small.{}", step, what))});
  }

 private:
  static core::SafetensorsFile Open() {
    auto file = core::SafetensorsFile::Open(std::filesystem::path(SBORA_SOURCE_DIR) / "tests/data/golden/adamw8bit/steps.safetensors");
    SBORA_CHECK(file.ok(), "{}", file.status().ToString());
    return std::move(file).value();
  }
  core::SafetensorsFile file_;
};

AdamW8Bit MakeOptimizer(const at::Tensor& parameters) {
  return {parameters, kOptions, {{.offset = 0, .size = kLarge}, {.offset = kLarge, .size = kSmall}}, kMinElements};
}

/// By name: where the golden file has it.
std::string GoldenName(const std::string& name, int64_t step) {
  if (name == "m_codes") return fmt::format("{}.large.m", step);
  if (name == "v_codes") return fmt::format("{}.large.v", step);
  if (name == "m" || name == "v") return fmt::format("{}.small.{}", step, name);
  return fmt::format("{}.large.{}", step, name);
}

double RelativeDifference(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).abs() / b.abs().clamp_min(std::numeric_limits<float>::min())).max().item<double>();
}

void ExpectState(const AdamW8Bit& optimizer, const Golden& golden, int64_t step) {
  for (const auto& [name, value] : optimizer.State()) {
    const at::Tensor expected = golden.Get(GoldenName(name, step));
    if (value.scalar_type() == at::kByte) {
      EXPECT_TRUE(at::equal(value, expected)) << name << " of step " << step;
    } else {
      EXPECT_LT(RelativeDifference(value, expected), 5e-7) << name << " of step " << step;
    }
  }
}

TEST(AdamW8BitGolden, TheMapsAreBitsandbytes) {
  const Golden golden;
  for (int code = 0; code < 256; ++code) {
    EXPECT_EQ(golden.Get("map.signed")[code].item<float>(), kernels::internal::kDynamicMap.at[code]) << code;
    EXPECT_EQ(golden.Get("map.unsigned")[code].item<float>(), kernels::internal::kUnsignedDynamicMap.at[code]) << code;
  }
}

TEST(AdamW8BitGolden, FourStepsEqualBitsandbytes) {
  const Golden golden;
  at::Tensor parameters = golden.Both(0, "weight");
  AdamW8Bit optimizer = MakeOptimizer(parameters);
  for (int64_t step = 1; step <= 4; ++step) {
    const at::Tensor gradients = golden.Both(step, "gradient");
    const auto report = Optimizer::Read(optimizer.Step(parameters, gradients, at::zeros({}), kRate, /*max_gradient_norm=*/0));
    EXPECT_TRUE(report.finite);
    ExpectState(optimizer, golden, step);
    EXPECT_LT((parameters - golden.Both(step, "weight")).abs().max().item<double>(), 1e-7);
  }
}

TEST(AdamW8BitGolden, AStateThatWasReadGoesOnWithTheSameBits) {
  const Golden golden;
  at::Tensor parameters = golden.Both(0, "weight");
  AdamW8Bit first = MakeOptimizer(parameters);
  const auto step = [&](AdamW8Bit& optimizer, at::Tensor& p, int64_t number) {
    optimizer.Step(p, golden.Both(number, "gradient"), at::zeros({}), kRate, 1.0);
  };
  step(first, parameters, 1);
  step(first, parameters, 2);
  at::Tensor copy = parameters.clone();
  AdamW8Bit second = MakeOptimizer(copy);
  second.SetSteps(first.steps());
  const auto from = first.State(), to = second.State();
  ASSERT_EQ(from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(from[i].name, to[i].name);
    at::Tensor target = to[i].value;
    target.copy_(from[i].value);
  }
  step(first, parameters, 3);
  step(second, copy, 3);
  EXPECT_TRUE(at::equal(parameters, copy));
  for (size_t i = 0; i < from.size(); ++i) EXPECT_TRUE(at::equal(from[i].value, to[i].value)) << from[i].name;
}

TEST(AdamW8Bit, ThreadsChangeNoBit) {
  const at::Tensor start = at::randn({100'000}, at::kFloat), gradients = at::randn({100'000}, at::kFloat);
  std::map<int, at::Tensor> results;
  const int before = at::get_num_threads();
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    at::Tensor parameters = start.clone();
    AdamW8Bit optimizer(parameters, kOptions, {{.offset = 0, .size = 100'000}}, kMinElements);
    optimizer.Step(parameters, gradients, at::zeros({}), kRate, 0);
    results[threads] = parameters;
  }
  at::set_num_threads(before);
  EXPECT_TRUE(at::equal(results[1], results[2]));
}

TEST(AdamW8Bit, WhatIsNotFiniteIsSkippedForGood) {
  at::Tensor parameters = at::ones({5000}, at::kFloat);
  AdamW8Bit optimizer(parameters, kOptions, {{.offset = 0, .size = 5000}}, kMinElements);
  at::Tensor gradients = at::ones({5000}, at::kFloat);
  EXPECT_TRUE(Optimizer::Read(optimizer.Step(parameters, gradients, at::zeros({}), kRate, 1.0)).finite);
  const at::Tensor good = parameters.clone();
  gradients.fill_(1);
  gradients[7] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(Optimizer::Read(optimizer.Step(parameters, gradients, at::zeros({}), kRate, 1.0)).finite);
  gradients.fill_(1);
  EXPECT_FALSE(Optimizer::Read(optimizer.Step(parameters, gradients, at::zeros({}), kRate, 1.0)).finite);
  EXPECT_TRUE(at::equal(parameters, good));
}

// Pages end inside of tensors and hold several; the golden test says what the bits are.
TEST(AdamW8BitTest, AStateInPagesGivesTheSameBits) {
  const std::vector<AdamW8Bit::Part> parts{{.offset = 0, .size = 1000}, {.offset = 1000, .size = 40}, {.offset = 1040, .size = 257},
                                           {.offset = 1297, .size = 40}, {.offset = 1337, .size = 3000}};
  constexpr int64_t kCount = 4337, kIn8Bits = 256;
  const at::Tensor start = at::arange(kCount, at::kFloat).sin();
  for (const int64_t page : {256, 512, 2048, 1 << 20}) {
    SCOPED_TRACE(page);
    at::Tensor plain = start.clone();
    AdamW8Bit whole(plain, kOptions, parts, kIn8Bits);
    at::Tensor paged = start.clone();
    AdamW8Bit optimizer(paged, kOptions, parts, kIn8Bits, page);
    for (int step = 1; step <= 3; ++step) {
      const at::Tensor gradient = (start * step).cos();
      whole.Step(plain, gradient.clone(), at::zeros({}), kRate, 1.0);
      optimizer.Step(paged, gradient.clone(), at::zeros({}), kRate, 1.0);
      EXPECT_TRUE(at::equal(plain, paged));
      const auto a = whole.State(), b = optimizer.State();
      ASSERT_EQ(a.size(), b.size());
      for (size_t t = 0; t < a.size(); ++t) EXPECT_TRUE(at::equal(a[t].value, b[t].value)) << a[t].name;
    }
  }
}

}  // namespace
}  // namespace sbora::trainer
