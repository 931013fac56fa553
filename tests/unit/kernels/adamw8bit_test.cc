// The 8-bit AdamW step against a plain search over the map in double, and its rules for zeros, splits and bad arguments.
#include "kernels/adamw8bit/adamw8bit.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "kernels/adamw8bit/adamw8bit_tables.h"

namespace sbora::kernels {
namespace {

struct Tensor {
  std::vector<float> p, g;
  std::vector<uint8_t> m_codes, v_codes;
  std::vector<float> m_scales, v_scales;

  explicit Tensor(int64_t elements)
      : p(static_cast<size_t>(elements)), g(p.size()), m_codes(p.size()), v_codes(p.size()),
        m_scales(static_cast<size_t>(AdamW8BitBlocks(elements))), v_scales(m_scales.size()) {
    std::mt19937 rng(5);
    std::normal_distribution<float> normal;
    for (float& value : p) value = normal(rng);
    NewGradients(1);
  }
  void NewGradients(uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0, 0.01f);
    for (float& value : g) value = normal(rng);
  }
  int64_t size() const { return std::ssize(p); }
  Status Step(const AdamWStep& step, int64_t begin, int64_t end) {
    const auto block = begin / kAdamW8BitBlock;
    return UpdateAdamW8Bit(Device::kCpu, step, end - begin, p.data() + begin, g.data() + begin,
                           {m_codes.data() + begin, m_scales.data() + block}, {v_codes.data() + begin, v_scales.data() + block});
  }
  bool operator==(const Tensor&) const = default;
};

AdamWStep StepNumber(int64_t t) { return {.weight_decay = 0.01, .learning_rate = 1e-3, .step = t}; }

/// By search; the lower of two.
uint8_t NearestToStep(const internal::DynamicMap& map, double value) {
  int best = 0;
  for (int code = 1; code < 256; ++code) {
    if (std::abs(map.at[code] - value) < std::abs(map.at[best] - value)) best = code;
  }
  return static_cast<uint8_t>(best);
}

/// The rule in words: one of 65536 steps, then the nearest value, the lower of two.
uint8_t Nearest(const internal::DynamicMap& map, float value, float scale) {
  const float normalised = value * (1.0f / scale);
  if (std::isnan(normalised)) return 0;
  const auto step = static_cast<int>((std::clamp(normalised, -1.0f, 1.0f) + 1.0f) * 0.5f * 65535.0f + 0.5f);
  return NearestToStep(map, 2.0 * step / 65535 - 1.0);
}

TEST(AdamW8Bit, MapsAscendFromTheirLeastToOne) {
  for (const auto* map : {&internal::kDynamicMap, &internal::kUnsignedDynamicMap}) {
    for (int code = 1; code < 256; ++code) EXPECT_GT(map->at[code], map->at[code - 1]) << code;
    EXPECT_EQ(map->at[255], 1.0f);
  }
  EXPECT_EQ(internal::kUnsignedDynamicMap.at[0], 0.0f);
  EXPECT_EQ(internal::kDynamicMap.at[127], 0.0f);
}

TEST(AdamW8Bit, BoundsAreTheMidpointsOfTheMaps) {
  const std::pair<const internal::DynamicMap*, const internal::StepBounds*> kinds[] = {
      {&internal::kDynamicMap, &internal::kDynamicBounds}, {&internal::kUnsignedDynamicMap, &internal::kUnsignedDynamicBounds}};
  for (const auto& [map, bounds] : kinds) {
    for (int step = 0; step < internal::kDynamicSteps; ++step) {
      const auto* const end = std::upper_bound(bounds->at, bounds->at + 255, step);
      ASSERT_EQ(end - bounds->at, NearestToStep(*map, internal::StepValue(step))) << step;
    }
  }
}

TEST(AdamW8Bit, WhatIsSkippedStaysAsItIs) {
  Tensor tensor(300);
  ASSERT_TRUE(tensor.Step(StepNumber(1), 0, 300).ok());
  const Tensor before = tensor;
  std::vector<float> m(300, 0.5f), v(300, 0.25f);
  const float skip = 1;
  EXPECT_TRUE(UpdateAdamW8Bit(Device::kCpu, StepNumber(2), 300, tensor.p.data(), tensor.g.data(),
                              {tensor.m_codes.data(), tensor.m_scales.data()}, {tensor.v_codes.data(), tensor.v_scales.data()},
                              &skip).ok());
  EXPECT_TRUE(UpdateAdamW32Bit(Device::kCpu, StepNumber(2), 300, tensor.p.data(), tensor.g.data(), m.data(), v.data(), &skip).ok());
  EXPECT_TRUE(tensor == before);
  EXPECT_EQ(m, std::vector<float>(300, 0.5f));
  EXPECT_EQ(v, std::vector<float>(300, 0.25f));
}

TEST(AdamW8Bit, StepsFollowTheFormulaAndTheNearestCode) {
  for (const int64_t elements : {1, 255, 256, 257, 1000}) {
    SCOPED_TRACE(elements);
    Tensor tensor(elements);
    for (int64_t t = 1; t <= 3; ++t) {
      tensor.NewGradients(static_cast<uint32_t>(t));
      const Tensor before = tensor;
      std::vector<float> m(before.p.size()), v(before.p.size());
      ASSERT_TRUE(DequantizeMoment(Device::kCpu, MomentKind::kFirst, elements, before.m_codes.data(), before.m_scales.data(), m.data()).ok());
      ASSERT_TRUE(DequantizeMoment(Device::kCpu, MomentKind::kSecond, elements, before.v_codes.data(), before.v_scales.data(), v.data()).ok());
      ASSERT_TRUE(tensor.Step(StepNumber(t), 0, elements).ok());
      for (size_t i = 0; i < m.size(); ++i) {
        const double g = before.g[i];
        const double first = 0.9 * m[i] + 0.1 * g, second = 0.999 * v[i] + 0.001 * g * g;
        const double mean = first / (1 - std::pow(0.9, t)), root = std::sqrt(second / (1 - std::pow(0.999, t)));
        EXPECT_NEAR(tensor.p[i], before.p[i] * (1 - 1e-5) - 1e-3 * mean / (root + 1e-8), 1e-6);
        const size_t block = i / kAdamW8BitBlock;
        EXPECT_NEAR(internal::kDynamicMap.at[tensor.m_codes[i]] * tensor.m_scales[block], first, 0.02 * tensor.m_scales[block]);
        // Away from midpoints; at them the last bit of f32 decides.
        const float value = static_cast<float>(second);
        const uint8_t low = Nearest(internal::kUnsignedDynamicMap, value * 0.999999f, tensor.v_scales[block]);
        const uint8_t high = Nearest(internal::kUnsignedDynamicMap, value * 1.000001f, tensor.v_scales[block]);
        if (low == high) {
          EXPECT_EQ(tensor.v_codes[i], low);
        }
      }
    }
  }
}

TEST(AdamW8Bit, AnySplitAtBlocksGivesTheSameBits) {
  Tensor whole(1000);
  Tensor split = whole;
  for (int64_t t = 1; t <= 2; ++t) {
    ASSERT_TRUE(whole.Step(StepNumber(t), 0, 1000).ok());
    ASSERT_TRUE(split.Step(StepNumber(t), 512, 1000).ok());
    ASSERT_TRUE(split.Step(StepNumber(t), 0, 512).ok());
    EXPECT_TRUE(whole == split);
  }
}

TEST(AdamW8Bit, ABlockOfZerosStaysWhereItIs) {
  Tensor tensor(300);
  std::fill(tensor.g.begin(), tensor.g.begin() + 256, 0.0f);
  const std::vector<float> before = tensor.p;
  for (int64_t t = 1; t <= 2; ++t) {
    ASSERT_TRUE(tensor.Step({.learning_rate = 1e-3, .step = t}, 0, 300).ok());
    EXPECT_TRUE(std::equal(before.begin(), before.begin() + 256, tensor.p.begin()));
    EXPECT_EQ(tensor.m_scales[0], 0.0f);
    EXPECT_NE(tensor.p[299], before[299]);
  }
}

TEST(AdamW8Bit, BadArgumentsAreNamed) {
  Tensor tensor(10);
  EXPECT_TRUE(UpdateAdamW8Bit(Device::kCpu, StepNumber(1), 0, nullptr, nullptr, {}, {}).ok());
  EXPECT_EQ(UpdateAdamW8Bit(Device::kCpu, StepNumber(1), 4, nullptr, nullptr, {}, {}).reason(), "ADAMW8BIT_POINTER");
  EXPECT_EQ(UpdateAdamW8Bit(Device::kCpu, StepNumber(1), -1, nullptr, nullptr, {}, {}).reason(), "ADAMW8BIT_SHAPE");
  EXPECT_EQ(tensor.Step(StepNumber(0), 0, 10).reason(), "ADAMW8BIT_STEP");
  EXPECT_EQ(tensor.Step({.beta2 = 1.0}, 0, 10).reason(), "ADAMW8BIT_STEP");
  EXPECT_EQ(tensor.Step({.epsilon = 0}, 0, 10).reason(), "ADAMW8BIT_STEP");
  EXPECT_TRUE(UpdateAdamW8Bit(Device::kCuda, StepNumber(1), 0, nullptr, nullptr, {}, {}).ok());
#ifndef SBORA_WITH_CUDA
  EXPECT_EQ(UpdateAdamW8Bit(Device::kCuda, StepNumber(1), 10, tensor.p.data(), tensor.g.data(),
                            {tensor.m_codes.data(), tensor.m_scales.data()}, {tensor.v_codes.data(), tensor.v_scales.data()}).reason(),
            "CUDA_NOT_BUILT");
#endif
}

}  // namespace
}  // namespace sbora::kernels
