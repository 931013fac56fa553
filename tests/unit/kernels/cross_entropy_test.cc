// One case table drives parity with the reference, gradients, guard bands, NaN and infinity.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/cross_entropy/cross_entropy_internal.h"
#include "tests/unit/kernels/cross_entropy_cases.h"

namespace sbora::kernels {
namespace {

using testing::Buffer;
using testing::CrossEntropyCase;
using testing::CrossEntropyProblem;
using testing::kCrossEntropyCases;
using testing::kDTypes;
using testing::Lender;

TEST(CrossEntropy, CpuIsTheReferenceWithinRounding) {
  Lender cpu(Device::kCpu);
  for (const DType dtype : kDTypes) {
    for (const CrossEntropyCase& c : kCrossEntropyCases) testing::ExpectReference(c, dtype, cpu);
  }
}

TEST(CrossEntropy, EveryVectorUnitAndEverySplitGivesTheSameBits) {
  Lender cpu(Device::kCpu);
  for (const DType dtype : kDTypes) {
    for (const CrossEntropyCase& c : kCrossEntropyCases) {
      if (c.rows == 0) continue;
      for (const bool gradient : {false, true}) {
        SCOPED_TRACE(Name(c, dtype));
        CrossEntropyProblem whole(c, dtype);
        whole.Run(cpu, gradient);
        for (const VectorUnit unit : testing::Units()) {
          CrossEntropyProblem p(c, dtype);
          internal::CrossEntropyCpu(p.Arguments(cpu, gradient), unit);
          testing::ExpectSameBits("loss", p.loss, whole.loss);
          testing::ExpectSameBits("gradient", p.logits, whole.logits);
        }
        CrossEntropyProblem p(c, dtype);
        for (const auto& [begin, end] : {std::pair{int64_t{0}, c.rows / 3}, {c.rows / 3, c.rows}}) {
          ASSERT_TRUE(CrossEntropy(Device::kCpu, Part(p.Arguments(cpu, gradient), begin, end)).ok());
        }
        testing::ExpectSameBits("loss", p.loss, whole.loss);
        testing::ExpectSameBits("gradient", p.logits, whole.logits);
      }
    }
  }
}

TEST(CrossEntropy, TheGradientIsTheSlopeOfTheFormula) {
  Lender cpu(Device::kCpu);
  for (const CrossEntropyCase& c : kCrossEntropyCases) {
    if (c.padding != 0 || c.rows * c.columns > 6000) continue;
    SCOPED_TRACE(Name(c, DType::kF32));
    CrossEntropyProblem p(c, DType::kF32);
    const Buffer logits = p.logits;
    p.Run(cpu, true);
    const auto loss = [&](const std::vector<double>& x) {
      double total = 0;
      for (int64_t s = 0; s < c.rows; ++s) {
        const auto row = static_cast<size_t>(s * c.columns);
        double sum = 0;
        for (size_t v = 0; v < static_cast<size_t>(c.columns); ++v) sum += std::exp(x[row + v]);
        total += std::log(sum) - x[row + static_cast<size_t>(p.targets[static_cast<size_t>(s)])];
      }
      return total;
    };
    testing::ExpectGradient("logits", loss, logits, p.logits);
  }
}

TEST(CrossEntropy, WithoutGradientTheLogitsStay) {
  Lender cpu(Device::kCpu);
  CrossEntropyProblem p(kCrossEntropyCases[4], DType::kF32);
  Buffer before = p.logits;
  p.Run(cpu, false);
  testing::ExpectSameBits("logits", p.logits, before);
}

TEST(CrossEntropy, WhatHasNoLossIsNanInItsRow) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const Device device : {Device::kCpuReference, Device::kCpu}) {
    Lender lender(device);
    for (const DType dtype : kDTypes) {
      CrossEntropyProblem p({7, 70, 0, 0, 1}, dtype);
      p.logits.Set(0, std::nan(""));
      p.logits.Set(70 + 69, kInf);
      for (int64_t v = 0; v < 70; ++v) p.logits.Set(2 * 70 + v, -kInf);
      p.targets[3] = 70;
      p.targets[4] = -1;
      p.logits.Set(5 * 70 + 3, -kInf);  // one impossible word is no harm
      p.targets[5] = 4;
      p.Run(lender, true);
      for (int64_t s = 0; s < 7; ++s) EXPECT_EQ(std::isnan(p.loss.Get(s)), s < 5) << s;
      EXPECT_EQ(p.logits.Get(5 * 70 + 3), 0);
      EXPECT_TRUE(std::isnan(p.logits.Get(5)));
      EXPECT_TRUE(std::isfinite(p.logits.Get(6 * 70)));
      EXPECT_TRUE(p.logits.GuardsIntact());
    }
  }
}

TEST(CrossEntropy, BadArgumentsArePlainErrors) {
  Lender cpu(Device::kCpu);
  CrossEntropyProblem p({3, 8, 0, 0, 1}, DType::kF32);
  const auto loss = [&](auto change) {
    CrossEntropyArguments a = p.Arguments(cpu, true);
    change(a);
    return CrossEntropy(Device::kCpu, a).reason();
  };
  EXPECT_EQ(loss([](auto& a) { a.rows = -1; }), "CROSS_ENTROPY_SHAPE");
  EXPECT_EQ(loss([](auto& a) { a.columns = -1; }), "CROSS_ENTROPY_SHAPE");
  EXPECT_EQ(loss([](auto& a) { a.stride = 7; }), "CROSS_ENTROPY_SHAPE");
  EXPECT_EQ(loss([](auto& a) { a.rows = int64_t{1} << 60; }), "CROSS_ENTROPY_SHAPE");
  EXPECT_EQ(loss([](auto& a) { a.target_S = nullptr; }), "CROSS_ENTROPY_POINTER");
  EXPECT_EQ(loss([](auto& a) { a.logits_SV = static_cast<char*>(a.logits_SV) + 2; }), "CROSS_ENTROPY_POINTER");
}

#ifndef SBORA_WITH_CUDA
TEST(CrossEntropy, CudaIsRefusedWhereItWasNotBuilt) {
  Lender cpu(Device::kCpu);
  CrossEntropyProblem p({3, 8, 0, 0, 1}, DType::kF32);
  EXPECT_EQ(CrossEntropy(Device::kCuda, p.Arguments(cpu, true)).reason(), "CUDA_NOT_BUILT");
}
#endif

}  // namespace
}  // namespace sbora::kernels
