#include "core/lora_init.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

namespace sbora::core {
namespace {

constexpr char kModule[] = "model.layers.0.self_attn.q_proj";

TEST(DrawLoraA, IsKaimingUniform) {
  constexpr int64_t kRank = 16, kIn = 400;
  const auto a = DrawLoraA(42, kModule, kRank, kIn, FrozenFactor::kNone);
  ASSERT_EQ(a.size(), size_t{kRank * kIn});
  const float bound = 1.0f / 20.0f;
  double sum = 0, square = 0;
  for (const float value : a) {
    ASSERT_GE(value, -bound);
    ASSERT_LT(value, bound);
    sum += value;
    square += double{value} * value;
  }
  const double n = kRank * kIn;
  EXPECT_NEAR(sum / n, 0, 4 * bound / std::sqrt(3 * n));           // four standard errors
  EXPECT_NEAR(square / n, bound * bound / 3, 0.03 * bound * bound / 3);
  EXPECT_LT(*std::min_element(a.begin(), a.end()), -0.99f * bound);
  EXPECT_GT(*std::max_element(a.begin(), a.end()), 0.99f * bound);
}

TEST(DrawLoraA, IsAFunctionOfSeedAndModuleAlone) {
  const auto draw = [](uint64_t seed, const char* module, FrozenFactor kind) {
    return DrawLoraA(seed, module, 4, 12, kind);
  };
  for (const FrozenFactor kind : {FrozenFactor::kNone, FrozenFactor::kOrthonormal}) {
    EXPECT_EQ(draw(1, kModule, kind), draw(1, kModule, kind));
    EXPECT_NE(draw(1, kModule, kind), draw(2, kModule, kind));
    EXPECT_NE(draw(1, kModule, kind), draw(1, "model.layers.1.self_attn.q_proj", kind));
  }
  EXPECT_EQ(draw(1, kModule, FrozenFactor::kRandom), draw(1, kModule, FrozenFactor::kNone));
}

// A stored seed must mean the same A for ever.
TEST(DrawLoraA, TestVectors) {
  EXPECT_THAT(DrawLoraA(42, kModule, 1, 4, FrozenFactor::kNone),
              ::testing::ElementsAre(-0.199133217f, -0.0497586131f, 0.490752339f, 0.307160437f));
  EXPECT_THAT(DrawLoraA(42, kModule, 1, 4, FrozenFactor::kOrthonormal),
              ::testing::ElementsAre(-0.429910183f, -0.0804201141f, -0.876566112f, -0.200852513f));
}

TEST(DrawLoraA, OrthonormalRowsAreOrthonormal) {
  for (const auto& [rank, in] : {std::pair<int64_t, int64_t>{1, 7}, {8, 64}, {24, 24}}) {  // up to a whole basis
    const auto a = DrawLoraA(7, kModule, rank, in, FrozenFactor::kOrthonormal);
    for (int64_t i = 0; i < rank; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double dot = 0;
        for (int64_t c = 0; c < in; ++c) {
          dot += double{a[static_cast<size_t>(i * in + c)]} * a[static_cast<size_t>(j * in + c)];
        }
        EXPECT_NEAR(dot, i == j ? 1 : 0, 1e-6) << rank << " x " << in << ", rows " << i << ", " << j;
      }
    }
  }
}

}  // namespace
}  // namespace sbora::core
