/// The case table of cross_entropy, for its CPU and CUDA tests.
#pragma once

#include <string>

#include "kernels/cross_entropy/cross_entropy.h"
#include "tests/unit/kernels/row_kernels.h"

namespace sbora::kernels::testing {

struct CrossEntropyCase {
  int64_t rows, columns;
  int64_t padding;   // stride - columns
  int64_t shift;     // from a 16-byte border
  double deviation;  // of the logits
};

// 0, 1, odd, the lanes of a sum and their neighbours, flat and steep rows, a real vocabulary, strides, unaligned.
inline constexpr CrossEntropyCase kCrossEntropyCases[] = {
    {0, 8, 0, 0, 1},   {1, 1, 0, 0, 1},     {2, 7, 0, 0, 1},      {5, 64, 0, 0, 0},    {4, 65, 3, 0, 3},
    {3, 127, 0, 1, 8}, {6, 1000, 24, 0, 2}, {3, 4096, 0, 0, 100}, {2, 49152, 0, 0, 3}, {129, 40, 0, 0, 2}};

inline std::string Name(const CrossEntropyCase& c, DType dtype) {
  return fmt::format("seed {} rows {} columns {} padding {} shift {} deviation {} {}", kSeed, c.rows, c.columns, c.padding,
                     c.shift, c.deviation, NameOf(dtype));
}

struct CrossEntropyProblem {
  CrossEntropyProblem(const CrossEntropyCase& c, DType dtype)
      : c(c), dtype(dtype), stride(c.columns + c.padding), logits(c.rows * stride, dtype, c.shift), loss(c.rows, DType::kF32) {
    logits.FillNormal(1, c.deviation);
    // Both borders are targets.
    for (int64_t s = 0; s < c.rows; ++s) targets.push_back(s == 0 ? c.columns - 1 : (s * 37) % c.columns);
  }
  CrossEntropyArguments Arguments(Lender& lender, bool gradient) {
    return {.rows = c.rows, .columns = c.columns, .stride = stride, .dtype = dtype, .gradient = gradient,
            .logits_SV = lender.Lend(logits), .target_S = lender.Lend(targets), .loss_S = lender.As<float>(loss)};
  }
  void Run(Lender& lender, bool gradient) {
    ASSERT_TRUE(CrossEntropy(lender.device, Arguments(lender, gradient)).ok());
    lender.Returned();
  }

  CrossEntropyCase c;
  DType dtype;
  int64_t stride;
  Buffer logits, loss;
  std::vector<int64_t> targets;
};

/// A float32 sum over the vocabulary, an exponential of a rounded difference, one rounding of the element type. The loss
/// is a difference of numbers of the logits' size.
inline void ExpectReference(const CrossEntropyCase& c, DType dtype, Lender& lender) {
  for (const bool gradient : {false, true}) {
    SCOPED_TRACE(Name(c, dtype) + (gradient ? " gradient" : ""));
    CrossEntropyProblem fast(c, dtype);
    fast.Run(lender, gradient);
    CrossEntropyProblem slow(c, dtype);
    Lender reference(Device::kCpuReference);
    slow.Run(reference, gradient);
    ExpectClose("loss", fast.loss, slow.loss, Unit(DType::kF32), 8 * (1 + c.deviation));
    ExpectClose("gradient", fast.logits, slow.logits, Unit(dtype), 8);
    if (!gradient || dtype != DType::kF32) continue;
    // Small probabilities too: relative to themselves, at all but the targets.
    for (int64_t s = 0; s < c.rows; ++s) {
      for (int64_t v = 0; v < c.columns; ++v) {
        if (v == fast.targets[static_cast<size_t>(s)]) continue;
        const double want = slow.logits.Get(s * fast.stride + v);
        ASSERT_NEAR(fast.logits.Get(s * fast.stride + v), want, Unit(dtype) * 16 * (1 + c.deviation) * want + 1e-44)
            << s << " " << v;
      }
    }
  }
}

}  // namespace sbora::kernels::testing
