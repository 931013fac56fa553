// One case table drives parity with the reference, gradients, guard bands, NaN and infinity.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/rms_norm/rms_norm_internal.h"
#include "tests/unit/kernels/rms_norm_cases.h"

namespace sbora::kernels {
namespace {

using testing::Buffer;
using testing::kDTypes;
using testing::kRmsNormCases;
using testing::Lender;
using testing::RmsNormCase;
using testing::RmsNormProblem;

TEST(RmsNorm, CpuIsTheReferenceWithinRounding) {
  Lender cpu(Device::kCpu);
  for (const DType dtype : kDTypes) {
    for (const RmsNormCase& c : kRmsNormCases) testing::ExpectReference(c, dtype, cpu);
  }
}

TEST(RmsNorm, EveryVectorUnitAndEverySplitGivesTheSameBits) {
  Lender cpu(Device::kCpu);
  for (const DType dtype : kDTypes) {
    for (const RmsNormCase& c : kRmsNormCases) {
      if (c.rows == 0 || c.columns == 0) continue;
      SCOPED_TRACE(Name(c, dtype));
      RmsNormProblem whole(c, dtype);
      whole.Run(cpu);
      const auto expect_same = [&](RmsNormProblem& p) {
        testing::ExpectSameBits("sum", p.sum, whole.sum);
        testing::ExpectSameBits("inverse", p.inverse, whole.inverse);
        testing::ExpectSameBits("y", p.y, whole.y);
        testing::ExpectSameBits("dx", p.dx, whole.dx);
        testing::ExpectSameBits("dw", p.dw, whole.dw);
      };
      for (const VectorUnit unit : testing::Units()) {
        RmsNormProblem p(c, dtype);
        internal::RmsNormCpu(p.Forward(cpu), unit);
        internal::RmsNormBackwardCpu(p.Backward(cpu), unit);
        internal::RmsNormWeightGradientCpu(p.Weight(cpu), unit);
        expect_same(p);
      }
      RmsNormProblem p(c, dtype);
      for (const auto& [begin, end] : {std::pair{int64_t{0}, c.rows / 3}, {c.rows / 3, c.rows}}) {
        ASSERT_TRUE(RmsNorm(Device::kCpu, Part(p.Forward(cpu), begin, end)).ok());
        ASSERT_TRUE(RmsNormBackward(Device::kCpu, Part(p.Backward(cpu), begin, end)).ok());
      }
      for (const auto& [begin, end] : {std::pair{int64_t{0}, c.columns / 3}, {c.columns / 3, c.columns}}) {
        ASSERT_TRUE(RmsNormWeightGradient(Device::kCpu, Part(p.Weight(cpu), begin, end)).ok());
      }
      expect_same(p);
    }
  }
}

TEST(RmsNorm, BackwardIsTheSlopeOfTheFormula) {
  Lender cpu(Device::kCpu);
  for (const RmsNormCase& c : kRmsNormCases) {
    if (c.rows * c.columns > 3000) continue;
    SCOPED_TRACE(Name(c, DType::kF32));
    RmsNormProblem p(c, DType::kF32);
    for (int64_t i = 0; i < p.dw.size(); ++i) p.dw.Set(i, 0);
    p.Run(cpu);
    const std::vector<double> g = p.grad.Values();
    const std::vector<double> h = p.sum_grad.Values();
    // loss = sum(g y) and, with the addition, + sum(h (x + add)).
    const auto loss = [&](const std::vector<double>& x, const std::vector<double>& w) {
      double sum = 0;
      for (int64_t t = 0; t < c.rows; ++t) {
        const auto row = static_cast<size_t>(t * c.columns);
        double squares = 0;
        for (size_t i = 0; i < w.size(); ++i) squares += x[row + i] * x[row + i];
        const double inverse = 1 / std::sqrt(squares / static_cast<double>(c.columns) + 1e-5);
        for (size_t i = 0; i < w.size(); ++i) {
          sum += g[row + i] * w[i] * x[row + i] * inverse + (c.add ? h[row + i] * x[row + i] : 0);
        }
      }
      return sum;
    };
    const Buffer& x = c.add ? p.sum : p.x;
    const std::vector<double> weights = p.w.Values();
    const std::vector<double> inputs = x.Values();
    testing::ExpectGradient("dx", [&](const std::vector<double>& at) { return loss(at, weights); }, x, p.dx);
    testing::ExpectGradient("dw", [&](const std::vector<double>& at) { return loss(inputs, at); }, p.w, p.dw);
  }
}

TEST(RmsNorm, NanAndInfinityStayInTheirRow) {
  Lender cpu(Device::kCpu);
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    for (const DType dtype : kDTypes) {
      RmsNormProblem p({3, 70, true, 0}, dtype);
      p.x.Set(70 + 69, bad);
      p.Run(cpu);
      for (int64_t t = 0; t < 3; ++t) {
        EXPECT_EQ(std::isnan(p.y.Get(t * 70 + 69)), t == 1);
        EXPECT_EQ(std::isnan(p.dx.Get(t * 70 + 69)), t == 1);
        EXPECT_FALSE(std::isnan(p.y.Get(t * 70)) && t != 1);
      }
    }
  }
}

TEST(RmsNorm, RowsOfZerosAreFinite) {
  Lender cpu(Device::kCpu);
  RmsNormProblem p({1, 5, false, 0}, DType::kF32);
  for (int64_t i = 0; i < 5; ++i) p.x.Set(i, 0);
  p.Run(cpu);
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(p.y.Get(i), 0);
}

TEST(RmsNorm, BadArgumentsArePlainErrors) {
  Lender cpu(Device::kCpu);
  RmsNormProblem p({3, 8, true, 0}, DType::kF32);
  const auto forward = [&](auto change) {
    RmsNormArguments a = p.Forward(cpu);
    change(a);
    return RmsNorm(Device::kCpu, a).reason();
  };
  EXPECT_EQ(forward([](auto& a) { a.rows = -1; }), "RMS_NORM_SHAPE");
  EXPECT_EQ(forward([](auto& a) { a.columns = -1; }), "RMS_NORM_SHAPE");
  EXPECT_EQ(forward([](auto& a) { a.rows = int64_t{1} << 60; }), "RMS_NORM_SHAPE");
  EXPECT_EQ(forward([](auto& a) { a.epsilon = -1; }), "RMS_NORM_EPSILON");
  EXPECT_EQ(forward([](auto& a) { a.epsilon = std::nanf(""); }), "RMS_NORM_EPSILON");
  EXPECT_EQ(forward([](auto& a) { a.x_TH = nullptr; }), "RMS_NORM_POINTER");
  EXPECT_EQ(forward([](auto& a) { a.add_TH = nullptr; }), "RMS_NORM_POINTER");
  EXPECT_EQ(forward([](auto& a) { a.sum_TH = nullptr; }), "RMS_NORM_POINTER");
  EXPECT_EQ(forward([](auto& a) { a.w_H = static_cast<const char*>(a.w_H) + 2; }), "RMS_NORM_POINTER");
  RmsNormBackwardArguments backward = p.Backward(cpu);
  backward.dx_TH = nullptr;
  EXPECT_EQ(RmsNormBackward(Device::kCpu, backward).reason(), "RMS_NORM_POINTER");
  RmsNormWeightArguments weight = p.Weight(cpu);
  weight.stride = 7;
  EXPECT_EQ(RmsNormWeightGradient(Device::kCpu, weight).reason(), "RMS_NORM_SHAPE");
}

#ifndef SBORA_WITH_CUDA
TEST(RmsNorm, CudaIsRefusedWhereItWasNotBuilt) {
  Lender cpu(Device::kCpu);
  RmsNormProblem p({3, 8, true, 0}, DType::kF32);
  EXPECT_EQ(RmsNorm(Device::kCuda, p.Forward(cpu)).reason(), "CUDA_NOT_BUILT");
  EXPECT_EQ(RmsNormBackward(Device::kCuda, p.Backward(cpu)).reason(), "CUDA_NOT_BUILT");
  EXPECT_EQ(RmsNormWeightGradient(Device::kCuda, p.Weight(cpu)).reason(), "CUDA_NOT_BUILT");
}
#endif

}  // namespace
}  // namespace sbora::kernels
