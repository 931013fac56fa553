#include "kernels/factor_gradient/factor_gradient.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace sbora::kernels {
namespace {

constexpr uint32_t kSeed = 20240705;
constexpr float kMark = 12345.0f;

struct Case {
  int64_t tokens, rows, columns, padding;  // padding: stride - extent, of all three
};
// 0, 1, odd, a tile and its neighbours, several chunks of tokens, either side long.
const Case kCases[] = {{0, 5, 3, 0},     {3, 0, 4, 0},    {3, 4, 0, 0},      {1, 1, 1, 0},      {7, 12, 32, 0},
                       {130, 13, 33, 0}, {128, 11, 31, 5}, {257, 48, 16, 1}, {64, 576, 32, 0}, {70, 32, 577, 3},
                       {300, 5, 17, 2},  {33, 29, 65, 0}};

struct Problem {
  explicit Problem(const Case& c)
      : shape{.tokens = c.tokens, .rows = c.rows, .columns = c.columns, .left_stride = c.rows + c.padding,
              .right_stride = c.columns + c.padding, .out_stride = c.columns + c.padding},
        left(static_cast<size_t>(c.tokens * shape.left_stride)),
        right(static_cast<size_t>(c.tokens * shape.right_stride)),
        out(static_cast<size_t>(c.rows * shape.out_stride) + 2, kMark) {
    std::mt19937 rng(kSeed);
    std::normal_distribution<float> normal;
    for (auto* values : {&left, &right}) {
      for (float& value : *values) value = normal(rng);
    }
    for (int64_t m = 0; m < c.rows; ++m) {
      for (int64_t n = 0; n < c.columns; ++n) At(m, n) = normal(rng);
    }
  }
  float& At(int64_t m, int64_t n) { return out[static_cast<size_t>(1 + m * shape.out_stride + n)]; }
  Status Run(Device device) { return FactorGradient(device, shape, left.data(), right.data(), 1.75f, out.data() + 1); }

  FactorGradientShape shape;
  std::vector<float> left, right;
  std::vector<float> out;  // with a guard at each end
};

std::string Name(const Case& c) {
  return fmt::format("seed {} tokens {} rows {} columns {} padding {}", kSeed, c.tokens, c.rows, c.columns, c.padding);
}

#define SBORA_NEEDS_AVX512() \
  if (!HasFactorGradient(Device::kCpu)) GTEST_SKIP() << "this processor has no AVX-512"

TEST(FactorGradient, IsTheReferenceWithinTheRoundingOfItsSums) {
  SBORA_NEEDS_AVX512();
  for (const Case& c : kCases) {
    SCOPED_TRACE(Name(c));
    Problem fast(c), slow(c);
    ASSERT_TRUE(fast.Run(Device::kCpu).ok());
    ASSERT_TRUE(slow.Run(Device::kCpuReference).ok());
    // The same sums of absolute values bound every partial sum, each of T additions rounds one by half a unit at most, and
    // roundings of either sign add up to the square root of their number.
    Problem sizes(c);
    for (auto* values : {&sizes.left, &sizes.right, &sizes.out}) {
      for (float& value : *values) value = std::abs(value);
    }
    ASSERT_TRUE(sizes.Run(Device::kCpuReference).ok());
    const double unit = 0x1p-24 * std::sqrt(static_cast<double>(c.tokens + 2));
    for (size_t i = 0; i < slow.out.size(); ++i) {
      ASSERT_NEAR(double{fast.out[i]}, double{slow.out[i]}, unit * double{sizes.out[i]}) << "element " << i;
      if (slow.out[i] == kMark) {
        ASSERT_EQ(fast.out[i], kMark) << "outside of the matrix, " << i;
      }
    }
  }
}

TEST(FactorGradient, HasTheSameBitsInPartsOfAnySize) {
  SBORA_NEEDS_AVX512();
  const Case c{257, 29, 65, 3};
  Problem whole(c);
  ASSERT_TRUE(whole.Run(Device::kCpu).ok());
  for (const int64_t part : {1, 7, 16, 40}) {
    Problem by_rows(c), by_columns(c);
    for (int64_t m = 0; m < c.rows; m += part) {
      FactorGradientShape shape = by_rows.shape;
      shape.rows = std::min(part, c.rows - m);
      ASSERT_TRUE(FactorGradient(Device::kCpu, shape, by_rows.left.data() + m, by_rows.right.data(), 1.75f,
                                 &by_rows.At(m, 0)).ok());
    }
    for (int64_t n = 0; n < c.columns; n += part) {
      FactorGradientShape shape = by_columns.shape;
      shape.columns = std::min(part, c.columns - n);
      ASSERT_TRUE(FactorGradient(Device::kCpu, shape, by_columns.left.data(), by_columns.right.data() + n, 1.75f,
                                 &by_columns.At(0, n)).ok());
    }
    EXPECT_EQ(by_rows.out, whole.out) << part;
    EXPECT_EQ(by_columns.out, whole.out) << part;
  }
}

TEST(FactorGradient, NanAndInfinityStayInTheirRowAndColumn) {
  SBORA_NEEDS_AVX512();
  Problem p({9, 14, 33, 0});
  p.left[2] = std::numeric_limits<float>::quiet_NaN();     // token 0, row 2
  p.right[33 + 32] = std::numeric_limits<float>::infinity();  // token 1, column 32
  ASSERT_TRUE(p.Run(Device::kCpu).ok());
  for (int64_t m = 0; m < 14; ++m) {
    for (int64_t n = 0; n < 33; ++n) EXPECT_EQ(std::isfinite(p.At(m, n)), m != 2 && n != 32) << m << ", " << n;
  }
}

TEST(FactorGradient, BadShapesArePlainErrors) {
  Problem p({9, 14, 33, 0});
  const auto reason = [&](auto change) {
    FactorGradientShape shape = p.shape;
    change(shape);
    return FactorGradient(Device::kCpuReference, shape, p.left.data(), p.right.data(), 1, p.out.data() + 1).reason();
  };
  EXPECT_EQ(reason([](auto& s) { s.tokens = -1; }), "FACTOR_GRADIENT_SHAPE");
  EXPECT_EQ(reason([](auto& s) { s.left_stride = 13; }), "FACTOR_GRADIENT_SHAPE");
  EXPECT_EQ(reason([](auto& s) { s.right_stride = 32; }), "FACTOR_GRADIENT_SHAPE");
  EXPECT_EQ(reason([](auto& s) { s.out_stride = 32; }), "FACTOR_GRADIENT_SHAPE");
  EXPECT_FALSE(HasFactorGradient(Device::kCuda));
}

}  // namespace
}  // namespace sbora::kernels
