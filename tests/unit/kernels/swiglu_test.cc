// One case table drives parity with the reference, gradients, guard bands, NaN and infinity.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/swiglu/swiglu_internal.h"
#include "kernels/vectorize.h"
#include "tests/unit/kernels/swiglu_cases.h"

namespace sbora::kernels {
namespace {

using testing::kDTypes;
using testing::kSwiGluCases;
using testing::Lender;
using testing::SwiGluCase;
using testing::SwiGluProblem;

TEST(Exp, IsWithinAUnitInTheLastPlace) {
  for (double x = -87.3; x < 88.7; x += 0.00037) {
    const auto at = static_cast<float>(x);
    const double want = std::exp(double{at});
    ASSERT_NEAR(double{internal::Exp(at)}, want, 0x1p-23 * want) << at;
  }
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(internal::Exp(-inf), 0);
  EXPECT_EQ(internal::Exp(inf), inf);
  EXPECT_EQ(internal::Exp(89.0f), inf);
  EXPECT_EQ(internal::Exp(-103.0f), 0x1p-149f);  // subnormal
  EXPECT_EQ(internal::Exp(0.0f), 1);
  EXPECT_TRUE(std::isnan(internal::Exp(std::nanf(""))));
}

TEST(SwiGlu, CpuIsTheReferenceWithinRounding) {
  Lender cpu(Device::kCpu);
  for (const DType dtype : kDTypes) {
    for (const SwiGluCase& c : kSwiGluCases) testing::ExpectReference(c, dtype, cpu);
  }
}

TEST(SwiGlu, EveryVectorUnitAndEverySplitGivesTheSameBits) {
  Lender cpu(Device::kCpu);
  for (const DType dtype : kDTypes) {
    for (const SwiGluCase& c : kSwiGluCases) {
      if (c.rows == 0 || c.columns == 0) continue;
      SCOPED_TRACE(Name(c, dtype));
      SwiGluProblem whole(c, dtype);
      whole.Run(cpu);
      const auto expect_same = [&](SwiGluProblem& p) {
        testing::ExpectSameBits("y", p.y, whole.y);
        testing::ExpectSameBits("dgate", p.dgate, whole.dgate);
        testing::ExpectSameBits("dup", p.dup, whole.dup);
      };
      for (const VectorUnit unit : testing::Units()) {
        SwiGluProblem p(c, dtype);
        internal::SwiGluCpu(p.Forward(cpu), unit);
        internal::SwiGluBackwardCpu(p.Backward(cpu), unit);
        expect_same(p);
      }
      SwiGluProblem p(c, dtype);
      for (const auto& [begin, end] : {std::pair{int64_t{0}, c.rows / 3}, {c.rows / 3, c.rows}}) {
        ASSERT_TRUE(SwiGlu(Device::kCpu, Part(p.Forward(cpu), begin, end)).ok());
        ASSERT_TRUE(SwiGluBackward(Device::kCpu, Part(p.Backward(cpu), begin, end)).ok());
      }
      expect_same(p);
    }
  }
}

TEST(SwiGlu, BackwardIsTheSlopeOfTheFormula) {
  Lender cpu(Device::kCpu);
  for (const SwiGluCase& c : kSwiGluCases) {
    if (c.padding != 0) continue;
    SCOPED_TRACE(Name(c, DType::kF32));
    SwiGluProblem p(c, DType::kF32);
    p.Run(cpu);
    const std::vector<double> grad = p.grad.Values();
    const auto loss = [&](const std::vector<double>& gate, const std::vector<double>& up) {
      double sum = 0;
      for (size_t i = 0; i < grad.size(); ++i) sum += grad[i] * gate[i] / (1 + std::exp(-gate[i])) * up[i];
      return sum;
    };
    const std::vector<double> gates = p.gate.Values();
    const std::vector<double> ups = p.up.Values();
    testing::ExpectGradient("dgate", [&](const std::vector<double>& at) { return loss(at, ups); }, p.gate, p.dgate);
    testing::ExpectGradient("dup", [&](const std::vector<double>& at) { return loss(gates, at); }, p.up, p.dup);
  }
}

TEST(SwiGlu, NanAndInfinityStayInTheirElement) {
  Lender cpu(Device::kCpu);
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const DType dtype : kDTypes) {
    SwiGluProblem p({2, 40, 0, 0}, dtype);
    p.gate.Set(3, std::nan(""));
    p.gate.Set(5, -kInf);
    p.gate.Set(7, kInf);
    p.up.Set(7, 1);
    p.gate.Set(9, -200);
    p.Run(cpu);
    for (int64_t i = 0; i < 80; ++i) {
      EXPECT_EQ(std::isnan(p.y.Get(i)), i == 3 || i == 5) << i;
      EXPECT_EQ(std::isinf(p.y.Get(i)), i == 7) << i;
    }
    EXPECT_EQ(p.y.Get(9), 0);
    EXPECT_EQ(p.dup.Get(9), 0);
    EXPECT_EQ(p.dgate.Get(9), 0);
  }
}

TEST(SwiGlu, BadArgumentsArePlainErrors) {
  Lender cpu(Device::kCpu);
  SwiGluProblem p({3, 8, 0, 0}, DType::kF32);
  const auto forward = [&](auto change) {
    SwiGluArguments a = p.Forward(cpu);
    change(a);
    return SwiGlu(Device::kCpu, a).reason();
  };
  EXPECT_EQ(forward([](auto& a) { a.rows = -1; }), "SWIGLU_SHAPE");
  EXPECT_EQ(forward([](auto& a) { a.columns = -1; }), "SWIGLU_SHAPE");
  EXPECT_EQ(forward([](auto& a) { a.up_stride = 7; }), "SWIGLU_STRIDE");
  EXPECT_EQ(forward([](auto& a) { a.y_stride = int64_t{1} << 60; }), "SWIGLU_STRIDE");
  EXPECT_EQ(forward([](auto& a) { a.gate_TF = nullptr; }), "SWIGLU_POINTER");
  EXPECT_EQ(forward([](auto& a) { a.up_TF = static_cast<const char*>(a.up_TF) + 1; }), "SWIGLU_POINTER");
  SwiGluBackwardArguments backward = p.Backward(cpu);
  backward.dup_TF = nullptr;
  EXPECT_EQ(SwiGluBackward(Device::kCpu, backward).reason(), "SWIGLU_POINTER");
}

#ifndef SBORA_WITH_CUDA
TEST(SwiGlu, CudaIsRefusedWhereItWasNotBuilt) {
  Lender cpu(Device::kCpu);
  SwiGluProblem p({3, 8, 0, 0}, DType::kF32);
  EXPECT_EQ(SwiGlu(Device::kCuda, p.Forward(cpu)).reason(), "CUDA_NOT_BUILT");
  EXPECT_EQ(SwiGluBackward(Device::kCuda, p.Backward(cpu)).reason(), "CUDA_NOT_BUILT");
}
#endif

}  // namespace
}  // namespace sbora::kernels
