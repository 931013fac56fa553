#include "core/counter_rng.h"

#include <gmock/gmock.h>

#include <numeric>
#include <set>
#include <vector>

namespace sbora::core {
namespace {

TEST(Philox, MatchesThePublishedVectorsOfRandom123) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t f = 0xffffffff;
  EXPECT_EQ(Philox4x32({f, f, f, f}, {f, f}), (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(DeriveKey, SeparatesDomainsSeedsAndNames) {
  const std::set<PhiloxKey> keys = {DeriveKey("a", 1), DeriveKey("b", 1), DeriveKey("a", 2), DeriveKey("a", 1, "x"),
                                    DeriveKey("a", 1, "y")};
  EXPECT_EQ(keys.size(), 5u);
  EXPECT_EQ(DeriveKey("a", 1, "x"), DeriveKey("a", 1, "x"));
}

TEST(PhiloxStream, BelowIsUniformAndFloatsAreInRange) {
  PhiloxStream stream(DeriveKey("test", 1));
  std::vector<int> counts(7, 0);
  for (int i = 0; i < 70000; ++i) ++counts[stream.Below(7)];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);
  double sum = 0;
  double square = 0;
  for (int i = 0; i < 20000; ++i) {
    const float u = stream.NextFloat();
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    const double x = stream.NextNormal();
    sum += x;
    square += x * x;
  }
  EXPECT_NEAR(sum / 20000, 0.0, 0.03);
  EXPECT_NEAR(square / 20000, 1.0, 0.05);
}

TEST(SeededPermutation, IsABijectionForEverySize) {
  for (const int64_t n : {1, 2, 3, 4, 5, 7, 16, 17, 100, 1000, 4097}) {
    const SeededPermutation permutation(42, 3, n);
    std::vector<bool> seen(static_cast<size_t>(n), false);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t image = permutation(i);
      ASSERT_GE(image, 0);
      ASSERT_LT(image, n);
      ASSERT_FALSE(seen[static_cast<size_t>(image)]) << n << ' ' << i;
      seen[static_cast<size_t>(image)] = true;
    }
  }
}

TEST(SeededPermutation, GoldenOrder) {
  const SeededPermutation permutation(42, 0, 10);
  std::vector<int64_t> order;
  for (int64_t i = 0; i < 10; ++i) order.push_back(permutation(i));
  EXPECT_THAT(order, ::testing::ElementsAre(9, 1, 5, 6, 3, 4, 8, 0, 7, 2));
}

TEST(SeededPermutation, EpochsAndSeedsGiveOtherOrders) {
  int same = 0;
  const SeededPermutation a(1, 0, 1000), b(1, 1, 1000), c(2, 0, 1000);
  for (int64_t i = 0; i < 1000; ++i) same += (a(i) == b(i)) + (a(i) == c(i));
  EXPECT_LT(same, 20);
}

TEST(SeededPermutation, FirstElementIsUniformOverEpochs) {
  std::vector<int> counts(10, 0);
  for (uint64_t epoch = 0; epoch < 10000; ++epoch) ++counts[static_cast<size_t>(SeededPermutation(5, epoch, 10)(0))];
  for (const int count : counts) EXPECT_NEAR(count, 1000, 150);
}

}  // namespace
}  // namespace sbora::core
