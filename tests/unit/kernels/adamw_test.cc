// One case table drives parity with the reference, guard bands, skipping, NaN and infinity.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/adamw/adamw_internal.h"
#include "tests/unit/kernels/adamw_cases.h"

namespace sbora::kernels {
namespace {

using testing::AdamWCase;
using testing::AdamWProblem;
using testing::kAdamWCases;
using testing::Lender;

TEST(AdamW, CpuIsTheReferenceWithinRounding) {
  Lender cpu(Device::kCpu);
  for (const AdamWCase& c : kAdamWCases) testing::ExpectReference(c, cpu);
}

TEST(AdamW, AFlagSkipsTheStep) {
  for (const Device device : {Device::kCpuReference, Device::kCpu}) {
    Lender lender(device);
    for (const AdamWCase& c : kAdamWCases) testing::ExpectSkip(c, lender);
  }
}

TEST(AdamW, EveryVectorUnitAndEverySplitGivesTheSameBits) {
  Lender cpu(Device::kCpu);
  for (const AdamWCase& c : kAdamWCases) {
    SCOPED_TRACE(Name(c));
    AdamWProblem whole(c);
    whole.Run(cpu, 1);
    const auto expect_same = [&](AdamWProblem& p) {
      testing::ExpectSameBits("parameters", p.p, whole.p);
      testing::ExpectSameBits("m", p.m, whole.m);
      testing::ExpectSameBits("v", p.v, whole.v);
    };
    for (const VectorUnit unit : testing::Units()) {
      AdamWProblem p(c);
      p.g.FillNormal(11);
      internal::UpdateAdamWCpu(p.Arguments(cpu, 1), unit);
      expect_same(p);
    }
    AdamWProblem p(c);
    p.g.FillNormal(11);
    for (const auto& [begin, end] : {std::pair{int64_t{0}, c.elements / 3}, {c.elements / 3, c.elements}}) {
      ASSERT_TRUE(UpdateAdamW(Device::kCpu, Part(p.Arguments(cpu, 1), begin, end)).ok());
    }
    expect_same(p);
  }
}

TEST(AdamW, NanAndInfinityStayInTheirElement) {
  Lender cpu(Device::kCpu);
  AdamWProblem p({40, 0, 0.01, 0.5});
  p.g.FillNormal(11);
  p.g.Set(3, std::nan(""));
  p.g.Set(20, std::numeric_limits<double>::infinity());
  ASSERT_TRUE(UpdateAdamW(Device::kCpu, p.Arguments(cpu, 1)).ok());
  for (int64_t i = 0; i < 40; ++i) {
    EXPECT_EQ(std::isfinite(p.p.Get(i)), i != 3 && i != 20) << i;
    EXPECT_EQ(std::isfinite(p.v.Get(i)), i != 3 && i != 20) << i;
  }
}

TEST(AdamW, BadArgumentsArePlainErrors) {
  Lender cpu(Device::kCpu);
  AdamWProblem p({8, 0, 0.01, 0.5});
  const auto update = [&](auto change) {
    AdamWArguments a = p.Arguments(cpu, 1);
    change(a);
    return UpdateAdamW(Device::kCpu, a).reason();
  };
  EXPECT_EQ(update([](auto& a) { a.elements = -1; }), "ADAMW_SHAPE");
  EXPECT_EQ(update([](auto& a) { a.elements = int64_t{1} << 62; }), "ADAMW_SHAPE");
  EXPECT_EQ(update([](auto& a) { a.step.beta1 = 1; }), "ADAMW_STEP");
  EXPECT_EQ(update([](auto& a) { a.step.epsilon = 0; }), "ADAMW_STEP");
  EXPECT_EQ(update([](auto& a) { a.step.learning_rate = std::nan(""); }), "ADAMW_STEP");
  EXPECT_EQ(update([](auto& a) { a.step.step = 0; }), "ADAMW_STEP");
  EXPECT_EQ(update([](auto& a) { a.v = nullptr; }), "ADAMW_POINTER");
  EXPECT_EQ(update([](auto& a) { a.gradients = reinterpret_cast<const float*>(reinterpret_cast<uintptr_t>(a.gradients) + 2); }),
            "ADAMW_POINTER");
}

#ifndef SBORA_WITH_CUDA
TEST(AdamW, CudaIsRefusedWhereItWasNotBuilt) {
  Lender cpu(Device::kCpu);
  AdamWProblem p({8, 0, 0.01, 0.5});
  EXPECT_EQ(UpdateAdamW(Device::kCuda, p.Arguments(cpu, 1)).reason(), "CUDA_NOT_BUILT");
}
#endif

}  // namespace
}  // namespace sbora::kernels
