// One case table drives parity with the reference, gradients, guard bands, NaN and infinity.
#include "kernels/sample_mul/sample_mul.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/unit/kernels/element_access.h"

namespace sbora::kernels {
namespace {

constexpr uint32_t kSeed = 20240705;

struct Case {
  int64_t rows;
  int64_t columns;
  int64_t indices;
  int64_t wide_padding;  // stride - columns
  int64_t narrow_padding;
};

// 0, 1, odd, the vector width and its neighbours, all columns, strides.
const Case kCases[] = {{0, 8, 3, 0, 0},  {3, 8, 0, 0, 0},   {1, 1, 1, 0, 0},   {1, 7, 3, 0, 0},   {5, 16, 4, 0, 0},
                       {4, 33, 8, 0, 0}, {17, 64, 31, 0, 0}, {9, 64, 64, 0, 0}, {6, 40, 7, 3, 5}, {33, 576, 32, 0, 0},
                       {2, 100, 9, 28, 7}};
const DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

/// Both borders are part of every table: the first and the last column are drawn whenever there is room.
std::vector<int32_t> DrawIndex(const Case& c, std::mt19937& rng) {
  std::vector<int32_t> all(static_cast<size_t>(c.columns));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), rng);
  std::vector<int32_t> index(all.begin(), all.begin() + c.indices);
  if (c.indices >= 2) {
    index.front() = 0;
    index.back() = static_cast<int32_t>(c.columns) - 1;
    for (size_t i = 1; i + 1 < index.size(); ++i) index[i] = static_cast<int32_t>(i);
  }
  return index;
}

/// Bytes with a guard band on each side, whose damage Check reports.
class Guarded {
 public:
  Guarded(int64_t elements, DType dtype) : dtype_(dtype), bytes_(2 * kGuard + static_cast<size_t>(elements) * SizeOf(dtype), kMark) {}

  void* data() { return bytes_.data() + kGuard; }
  double Get(int64_t i) const {
    return testing::ReadElement(bytes_.data() + kGuard + static_cast<size_t>(i) * SizeOf(dtype_), dtype_);
  }
  void Set(int64_t i, float value) {
    testing::WriteElement(bytes_.data() + kGuard + static_cast<size_t>(i) * SizeOf(dtype_), dtype_, value);
  }
  const std::vector<unsigned char>& bytes() const { return bytes_; }
  bool GuardsIntact() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (bytes_[i] != kMark || bytes_[bytes_.size() - 1 - i] != kMark) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr unsigned char kMark = 0xA5;
  DType dtype_;
  std::vector<unsigned char> bytes_;
};

struct Problem {
  Problem(const Case& c, DType dtype)
      : shape{.rows = c.rows, .wide_columns = c.columns, .wide_stride = c.columns + c.wide_padding, .indices = c.indices,
              .narrow_stride = c.indices + c.narrow_padding, .dtype = dtype},
        wide(shape.rows * shape.wide_stride, dtype),
        narrow(shape.rows * shape.narrow_stride, dtype) {
    std::mt19937 rng(kSeed);
    index = DrawIndex(c, rng);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < shape.rows * shape.wide_stride; ++i) wide.Set(i, normal(rng));
    for (int64_t i = 0; i < shape.rows * shape.narrow_stride; ++i) narrow.Set(i, normal(rng));
  }
  SampleMulShape shape;
  Guarded wide;
  Guarded narrow;
  std::vector<int32_t> index;
};

std::string Name(const Case& c, DType dtype) {
  return fmt::format("seed {} rows {} columns {} indices {} {}", kSeed, c.rows, c.columns, c.indices, NameOf(dtype));
}

TEST(SampleMul, CpuEqualsReferenceBitForBitInGather) {
  for (const DType dtype : kDTypes) {
    for (const Case& c : kCases) {
      SCOPED_TRACE(Name(c, dtype));
      Problem fast(c, dtype);
      Problem slow(c, dtype);
      ASSERT_TRUE(GatherColumns(Device::kCpu, fast.shape, fast.wide.data(), fast.index.data(), fast.narrow.data()).ok());
      ASSERT_TRUE(GatherColumns(Device::kCpuReference, slow.shape, slow.wide.data(), slow.index.data(), slow.narrow.data()).ok());
      EXPECT_EQ(fast.narrow.bytes(), slow.narrow.bytes());
      EXPECT_TRUE(fast.narrow.GuardsIntact());
      for (int64_t t = 0; t < c.rows; ++t) {
        for (int64_t j = 0; j < c.indices; ++j) {
          ASSERT_EQ(fast.narrow.Get(t * fast.shape.narrow_stride + j),
                    fast.wide.Get(t * fast.shape.wide_stride + fast.index[static_cast<size_t>(j)]));
        }
      }
    }
  }
}

TEST(SampleMul, CpuScatterAddIsTheReferenceWithinOneRounding) {
  for (const DType dtype : kDTypes) {
    const double unit = dtype == DType::kF32 ? 0x1p-23 : dtype == DType::kF16 ? 0x1p-10 : 0x1p-7;
    for (const Case& c : kCases) {
      SCOPED_TRACE(Name(c, dtype));
      Problem fast(c, dtype);
      Problem slow(c, dtype);
      const Problem before(c, dtype);
      ASSERT_TRUE(ScatterAddColumns(Device::kCpu, fast.shape, fast.wide.data(), fast.index.data(), fast.narrow.data(), 1.75f).ok());
      ASSERT_TRUE(ScatterAddColumns(Device::kCpuReference, slow.shape, slow.wide.data(), slow.index.data(), slow.narrow.data(), 1.75f).ok());
      EXPECT_TRUE(fast.wide.GuardsIntact());
      int64_t changed = 0;
      for (int64_t i = 0; i < c.rows * fast.shape.wide_stride; ++i) {
        ASSERT_NEAR(fast.wide.Get(i), slow.wide.Get(i), unit * (1 + std::abs(slow.wide.Get(i))));
        changed += fast.wide.Get(i) != before.wide.Get(i) ? 1 : 0;
      }
      EXPECT_LE(changed, c.rows * c.indices);
    }
  }
}

TEST(SampleMul, CpuWriteSetsTheColumnsWithinOneRoundingAndNothingElse) {
  for (const DType dtype : kDTypes) {
    const double unit = dtype == DType::kF32 ? 0x1p-23 : dtype == DType::kF16 ? 0x1p-10 : 0x1p-7;
    for (const Case& c : kCases) {
      SCOPED_TRACE(Name(c, dtype));
      Problem fast(c, dtype), slow(c, dtype), once(c, dtype);
      const Problem before(c, dtype);
      Problem factor(c, DType::kF32);
      const auto* change = static_cast<const float*>(factor.narrow.data());
      const auto write = [&](Device device, Problem& p, float scale) {
        return WriteColumns(device, p.shape, p.wide.data(), p.index.data(), p.narrow.data(), change, scale).ok();
      };
      ASSERT_TRUE(write(Device::kCpuReference, slow, 1.75f));
      ASSERT_TRUE(write(Device::kCpu, once, 1.75f));
      ASSERT_TRUE(write(Device::kCpu, fast, -3.0f));  // what was written before leaves no trace
      ASSERT_TRUE(write(Device::kCpu, fast, 1.75f));
      EXPECT_TRUE(fast.wide.GuardsIntact());
      EXPECT_EQ(fast.wide.bytes(), once.wide.bytes());
      int64_t changed = 0;
      for (int64_t i = 0; i < c.rows * fast.shape.wide_stride; ++i) {
        ASSERT_NEAR(fast.wide.Get(i), slow.wide.Get(i), unit * (1 + std::abs(slow.wide.Get(i))));
        changed += fast.wide.Get(i) != before.wide.Get(i) ? 1 : 0;
      }
      EXPECT_LE(changed, c.rows * c.indices);
      ASSERT_TRUE(write(Device::kCpu, fast, 0.0f));  // the saved columns themselves, bit for bit
      ASSERT_TRUE(GatherColumns(Device::kCpu, fast.shape, fast.wide.data(), fast.index.data(), slow.narrow.data()).ok());
      EXPECT_EQ(slow.narrow.bytes(), fast.narrow.bytes());
    }
  }
}

/// loss = sum(weight * f(input)) in double through the reference; its slope must be the gradient that the other
/// operation computes.
TEST(SampleMul, EachOperationIsTheOthersGradient) {
  for (const Case& c : kCases) {
    if (c.rows == 0 || c.indices == 0) continue;
    SCOPED_TRACE(Name(c, DType::kF32));
    Problem p(c, DType::kF32);
    Guarded gradient(c.rows * p.shape.wide_stride, DType::kF32);
    for (int64_t i = 0; i < c.rows * p.shape.wide_stride; ++i) gradient.Set(i, 0);
    // narrow plays the output gradient of the gather.
    ASSERT_TRUE(ScatterAddColumns(Device::kCpu, p.shape, gradient.data(), p.index.data(), p.narrow.data(), 1).ok());
    const auto loss = [&](Guarded& wide) {
      Guarded out(c.rows * p.shape.narrow_stride, DType::kF32);
      EXPECT_TRUE(GatherColumns(Device::kCpuReference, p.shape, wide.data(), p.index.data(), out.data()).ok());
      double sum = 0;
      for (int64_t t = 0; t < c.rows; ++t) {
        for (int64_t j = 0; j < c.indices; ++j) {
          const int64_t i = t * p.shape.narrow_stride + j;
          sum += out.Get(i) * p.narrow.Get(i);
        }
      }
      return sum;
    };
    for (int64_t i = 0; i < c.rows * p.shape.wide_stride; i += 1 + c.columns / 7) {
      const double at = p.wide.Get(i);
      p.wide.Set(i, static_cast<float>(at + 0.5));
      const double up = loss(p.wide);
      p.wide.Set(i, static_cast<float>(at - 0.5));
      const double down = loss(p.wide);
      p.wide.Set(i, static_cast<float>(at));
      ASSERT_NEAR(up - down, gradient.Get(i), 1e-5) << "element " << i;
    }
  }
}

TEST(SampleMul, NanAndInfinityStayInTheirElement) {
  for (const DType dtype : kDTypes) {
    Problem p({4, 33, 8, 0, 0}, dtype);
    p.wide.Set(0, std::numeric_limits<float>::quiet_NaN());
    p.narrow.Set(1, std::numeric_limits<float>::infinity());  // row 0, index[1]
    ASSERT_TRUE(ScatterAddColumns(Device::kCpu, p.shape, p.wide.data(), p.index.data(), p.narrow.data(), 2).ok());
    for (int64_t i = 0; i < 4 * 33; ++i) {
      EXPECT_EQ(std::isnan(p.wide.Get(i)), i == 0);
      EXPECT_EQ(std::isinf(p.wide.Get(i)), i == p.index[1]);
    }
    const std::vector<float> zeros(4 * 8);  // column 0 is written anew: the NaN goes, the infinity is the saved value
    ASSERT_TRUE(WriteColumns(Device::kCpu, p.shape, p.wide.data(), p.index.data(), p.narrow.data(), zeros.data(), 2).ok());
    for (int64_t i = 0; i < 4 * 33; ++i) {
      EXPECT_FALSE(std::isnan(p.wide.Get(i)));
      EXPECT_EQ(std::isinf(p.wide.Get(i)), i == p.index[1]);
    }
  }
}

TEST(SampleMul, ElementConversionsRoundTripEveryBitPattern) {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const internal::Float16 half{static_cast<uint16_t>(bits)};
    const internal::BFloat16 brain{static_cast<uint16_t>(bits)};
    if (!std::isnan(internal::Widen(half))) {
      ASSERT_EQ(internal::Narrow<internal::Float16>(internal::Widen(half)).bits, bits);
    }
    if (!std::isnan(internal::Widen(brain))) {
      ASSERT_EQ(internal::Narrow<internal::BFloat16>(internal::Widen(brain)).bits, bits);
    }
  }
  EXPECT_EQ(internal::Widen(internal::Float16{0x3C00}), 1.0f);
  EXPECT_EQ(internal::Widen(internal::Float16{0x0001}), 0x1p-24f);
  EXPECT_EQ(internal::Narrow<internal::Float16>(65520.0f).bits, 0x7C00);  // first value that rounds to infinity
  EXPECT_EQ(internal::Narrow<internal::Float16>(65519.0f).bits, 0x7BFF);
  EXPECT_EQ(internal::Narrow<internal::BFloat16>(1.00390625f).bits, 0x3F80);  // a tie goes to even
}

TEST(SampleMul, IndicesAreCheckedWithPositionAndValue) {
  EXPECT_TRUE(CheckIndex(std::vector<int32_t>{0, 9, 4}, 10).ok());
  const Status high = CheckIndex(std::vector<int32_t>{0, 10}, 10);
  EXPECT_EQ(high.reason(), "INDEX_OUT_OF_RANGE");
  EXPECT_EQ(high.message(), "index[1]=10 is outside [0, 10)");
  EXPECT_EQ(CheckIndex(std::vector<int32_t>{-1}, 10).reason(), "INDEX_OUT_OF_RANGE");
  const Status repeated = CheckIndex(std::vector<int32_t>{3, 5, 3}, 10);
  EXPECT_EQ(repeated.reason(), "INDEX_REPEATED");
  EXPECT_THAT(repeated.message(), ::testing::HasSubstr("index[0] and index[2] are both 3"));
}

TEST(SampleMul, BadShapesArePlainErrors) {
  Problem p({4, 33, 8, 0, 0}, DType::kF32);
  const auto gather = [&](auto change) {
    SampleMulShape shape = p.shape;
    change(shape);
    return GatherColumns(Device::kCpu, shape, p.wide.data(), p.index.data(), p.narrow.data()).reason();
  };
  EXPECT_EQ(gather([](auto& s) { s.rows = -1; }), "SAMPLE_MUL_SHAPE");
  EXPECT_EQ(gather([](auto& s) { s.indices = 34; }), "SAMPLE_MUL_SHAPE");
  EXPECT_EQ(gather([](auto& s) { s.wide_columns = int64_t{1} << 31; }), "SAMPLE_MUL_SHAPE");
  EXPECT_EQ(gather([](auto& s) { s.rows = int64_t{1} << 60; }), "SAMPLE_MUL_SHAPE");
  EXPECT_EQ(gather([](auto& s) { s.wide_stride = 32; }), "SAMPLE_MUL_STRIDE");
  EXPECT_EQ(gather([](auto& s) { s.narrow_stride = 7; }), "SAMPLE_MUL_STRIDE");
  EXPECT_EQ(GatherColumns(Device::kCpu, p.shape, nullptr, p.index.data(), p.narrow.data()).reason(), "SAMPLE_MUL_POINTER");
  EXPECT_EQ(WriteColumns(Device::kCpu, p.shape, p.wide.data(), p.index.data(), p.narrow.data(), nullptr, 1).reason(),
            "SAMPLE_MUL_POINTER");
}

#ifndef SBORA_WITH_CUDA
TEST(SampleMul, CudaIsRefusedWhereItWasNotBuilt) {
  Problem p({4, 33, 8, 0, 0}, DType::kF32);
  EXPECT_EQ(GatherColumns(Device::kCuda, p.shape, p.wide.data(), p.index.data(), p.narrow.data()).reason(), "CUDA_NOT_BUILT");
  EXPECT_EQ(ScatterAddColumns(Device::kCuda, p.shape, p.wide.data(), p.index.data(), p.narrow.data(), 1).reason(), "CUDA_NOT_BUILT");
  const std::vector<float> factor(4 * 8);
  EXPECT_EQ(WriteColumns(Device::kCuda, p.shape, p.wide.data(), p.index.data(), p.narrow.data(), factor.data(), 1).reason(),
            "CUDA_NOT_BUILT");
}
#endif

}  // namespace
}  // namespace sbora::kernels
