/// The case table of adamw, for its CPU and CUDA tests.
#pragma once

#include <string>

#include "kernels/adamw/adamw.h"
#include "tests/unit/kernels/row_kernels.h"

namespace sbora::kernels::testing {

struct AdamWCase {
  int64_t elements;
  int64_t shift;  // from a 16-byte border
  double weight_decay;
  double factor;  // of the gradients; 0: none is given
};

inline constexpr AdamWCase kAdamWCases[] = {{0, 0, 0, 0},      {1, 0, 0.1, 0},     {3, 0, 0, 0.25},       {16, 0, 0.1, 1},
                                            {17, 1, 0.1, 0.5}, {1000, 0, 0.01, 0}, {5000, 0, 0.01, 0.125}};

inline std::string Name(const AdamWCase& c) {
  return fmt::format("seed {} elements {} shift {} decay {} factor {}", kSeed, c.elements, c.shift, c.weight_decay, c.factor);
}

struct AdamWProblem {
  explicit AdamWProblem(const AdamWCase& c)
      : c(c),
        p(c.elements, DType::kF32, c.shift),
        g(c.elements, DType::kF32, c.shift),
        m(c.elements, DType::kF32, c.shift),
        v(c.elements, DType::kF32, c.shift),
        factor(1, DType::kF32),
        skip(1, DType::kF32) {
    p.FillNormal(1);
    m.FillNormal(2, 0.1);
    v.FillNormal(3, 0.1);
    for (int64_t i = 0; i < c.elements; ++i) v.Set(i, std::abs(v.Get(i)));
    factor.Set(0, c.factor);
    skip.Set(0, 0);
  }
  AdamWArguments Arguments(Lender& lender, int64_t step) {
    return {.step = {.weight_decay = c.weight_decay, .learning_rate = 0.01, .step = step}, .elements = c.elements,
            .parameters = lender.As<float>(p), .gradients = lender.As<const float>(g), .m = lender.As<float>(m),
            .v = lender.As<float>(v), .gradient_factor = c.factor == 0 ? nullptr : lender.As<const float>(factor),
            .skip = lender.As<const float>(skip)};
  }
  void Run(Lender& lender, int steps) {
    for (int step = 1; step <= steps; ++step) {
      g.FillNormal(10 + static_cast<uint32_t>(step));
      ASSERT_TRUE(UpdateAdamW(lender.device, Arguments(lender, step)).ok());
      lender.Returned();
    }
  }

  AdamWCase c;
  Buffer p, g, m, v, factor, skip;
};

/// Four steps, each of a dozen roundings in float32.
inline void ExpectReference(const AdamWCase& c, Lender& lender) {
  SCOPED_TRACE(Name(c));
  AdamWProblem fast(c);
  fast.Run(lender, 4);
  AdamWProblem slow(c);
  Lender reference(Device::kCpuReference);
  slow.Run(reference, 4);
  ExpectClose("parameters", fast.p, slow.p, Unit(DType::kF32), 8);
  ExpectClose("m", fast.m, slow.m, Unit(DType::kF32), 4);
  ExpectClose("v", fast.v, slow.v, Unit(DType::kF32), 4);
}

/// What is not 0 in `skip` leaves all as it was.
inline void ExpectSkip(const AdamWCase& c, Lender& lender) {
  SCOPED_TRACE(Name(c));
  AdamWProblem skipped(c);
  skipped.skip.Set(0, 1);
  skipped.Run(lender, 1);
  AdamWProblem before(c);
  ExpectSameBits("parameters", skipped.p, before.p);
  ExpectSameBits("m", skipped.m, before.m);
  ExpectSameBits("v", skipped.v, before.v);
}

}  // namespace sbora::kernels::testing
