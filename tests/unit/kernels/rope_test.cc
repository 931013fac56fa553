// One case table drives parity with the reference, gradients, guard bands, NaN and infinity.
#include <gtest/gtest.h>

#include <limits>

#include "kernels/rope/rope_internal.h"
#include "tests/unit/kernels/rope_cases.h"

namespace sbora::kernels {
namespace {

using testing::kDTypes;
using testing::kRopeCases;
using testing::Lender;
using testing::RopeCase;
using testing::RopeProblem;

TEST(Rope, CpuIsTheReferenceWithinRounding) {
  Lender cpu(Device::kCpu);
  for (const DType dtype : kDTypes) {
    for (const RopeCase& c : kRopeCases) testing::ExpectReference(c, dtype, cpu);
  }
}

TEST(Rope, EveryVectorUnitAndEverySplitGivesTheSameBits) {
  Lender cpu(Device::kCpu);
  for (const DType dtype : kDTypes) {
    for (const RopeCase& c : kRopeCases) {
      if (c.rows == 0) continue;
      SCOPED_TRACE(Name(c, dtype));
      RopeProblem whole(c, dtype);
      whole.Run(cpu, false);
      for (const VectorUnit unit : testing::Units()) {
        if (whole.y.size() == 0) continue;
        RopeProblem p(c, dtype);
        internal::RopeCpu(p.Arguments(cpu, false), unit);
        testing::ExpectSameBits("y", p.y, whole.y);
      }
      RopeProblem p(c, dtype);
      for (const auto& [begin, end] : {std::pair{int64_t{0}, c.rows / 3}, {c.rows / 3, c.rows}}) {
        ASSERT_TRUE(Rope(Device::kCpu, Part(p.Arguments(cpu, false), begin, end)).ok());
      }
      testing::ExpectSameBits("y", p.y, whole.y);
    }
  }
}

/// The operation is linear: <rope(a), b> = <a, rope^-1(b)>.
TEST(Rope, TheInverseIsTheGradient) {
  Lender cpu(Device::kCpu);
  for (const RopeCase& c : kRopeCases) {
    if (c.padding != 0) continue;
    SCOPED_TRACE(Name(c, DType::kF32));
    RopeProblem forward(c, DType::kF32);
    forward.Run(cpu, false);
    RopeProblem back(c, DType::kF32);
    back.x.FillNormal(2);
    back.Run(cpu, true);
    double left = 0;
    double right = 0;
    for (int64_t i = 0; i < forward.y.size(); ++i) {
      left += forward.y.Get(i) * back.x.Get(i);
      right += forward.x.Get(i) * back.y.Get(i);
    }
    EXPECT_NEAR(left, right, 1e-6 * static_cast<double>(1 + forward.y.size()));
  }
}

TEST(Rope, NanAndInfinityStayInTheirPair) {
  Lender cpu(Device::kCpu);
  for (const DType dtype : kDTypes) {
    RopeProblem p({2, 2, 16, 0, 0}, dtype);
    p.x.Set(3, std::nan(""));
    p.x.Set(32 + 9, std::numeric_limits<double>::infinity());
    p.Run(cpu, false);
    for (int64_t i = 0; i < 64; ++i) {
      EXPECT_EQ(std::isfinite(p.y.Get(i)), i != 3 && i != 11 && i != 33 && i != 41) << i;
    }
  }
}

TEST(Rope, BadArgumentsArePlainErrors) {
  Lender cpu(Device::kCpu);
  RopeProblem p({3, 2, 8, 0, 0}, DType::kF32);
  const auto rope = [&](auto change) {
    RopeArguments a = p.Arguments(cpu, false);
    change(a);
    return Rope(Device::kCpu, a).reason();
  };
  EXPECT_EQ(rope([](auto& a) { a.rows = -1; }), "ROPE_SHAPE");
  EXPECT_EQ(rope([](auto& a) { a.heads = -1; }), "ROPE_SHAPE");
  EXPECT_EQ(rope([](auto& a) { a.head_dim = 7; }), "ROPE_SHAPE");
  EXPECT_EQ(rope([](auto& a) { a.heads = int64_t{1} << 58; }), "ROPE_SHAPE");
  EXPECT_EQ(rope([](auto& a) { a.x_stride = 15; }), "ROPE_STRIDE");
  EXPECT_EQ(rope([](auto& a) { a.sin_TD2 = nullptr; }), "ROPE_POINTER");
  EXPECT_EQ(rope([](auto& a) { a.y_TD = static_cast<char*>(a.y_TD) + 1; }), "ROPE_POINTER");
}

#ifndef SBORA_WITH_CUDA
TEST(Rope, CudaIsRefusedWhereItWasNotBuilt) {
  Lender cpu(Device::kCpu);
  RopeProblem p({3, 2, 8, 0, 0}, DType::kF32);
  EXPECT_EQ(Rope(Device::kCuda, p.Arguments(cpu, false)).reason(), "CUDA_NOT_BUILT");
}
#endif

}  // namespace
}  // namespace sbora::kernels
