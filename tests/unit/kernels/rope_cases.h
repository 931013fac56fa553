/// The case table of rope, for its CPU and CUDA tests.
#pragma once

#include <string>

#include "kernels/rope/rope.h"
#include "tests/unit/kernels/row_kernels.h"

namespace sbora::kernels::testing {

struct RopeCase {
  int64_t rows, heads, head_dim;
  int64_t padding;  // of x: stride - heads * head_dim
  int64_t shift;    // from a 16-byte border
};

// 0, 1, small and odd halves, real shapes, a part of a wider matrix, unaligned.
inline constexpr RopeCase kRopeCases[] = {{0, 2, 8, 0, 0},   {3, 0, 8, 0, 0},   {3, 2, 0, 0, 0},    {1, 1, 2, 0, 0},
                                          {4, 3, 6, 0, 0},   {5, 2, 16, 32, 0}, {33, 9, 64, 0, 0}, {7, 3, 64, 5, 0},
                                          {6, 2, 128, 0, 1}, {2, 1, 66, 0, 0}};

inline std::string Name(const RopeCase& c, DType dtype) {
  return fmt::format("seed {} rows {} heads {} head_dim {} padding {} shift {} {}", kSeed, c.rows, c.heads, c.head_dim,
                     c.padding, c.shift, NameOf(dtype));
}

struct RopeProblem {
  RopeProblem(const RopeCase& c, DType dtype)
      : c(c),
        dtype(dtype),
        stride(c.heads * c.head_dim + c.padding),
        x(c.rows * stride, dtype, c.shift),
        y(c.rows * c.heads * c.head_dim, dtype, c.shift),
        cos(c.rows * c.head_dim / 2, DType::kF32),
        sin(c.rows * c.head_dim / 2, DType::kF32) {
    x.FillNormal(1);
    for (int64_t i = 0; i < cos.size(); ++i) {
      cos.Set(i, std::cos(0.7 * static_cast<double>(i)));
      sin.Set(i, std::sin(0.7 * static_cast<double>(i)));
    }
  }
  RopeArguments Arguments(Lender& lender, bool inverse) {
    return {.rows = c.rows, .heads = c.heads, .head_dim = c.head_dim, .dtype = dtype, .inverse = inverse,
            .x_TD = lender.Lend(x), .x_stride = stride, .cos_TD2 = lender.As<const float>(cos),
            .sin_TD2 = lender.As<const float>(sin), .y_TD = lender.Lend(y)};
  }
  void Run(Lender& lender, bool inverse) {
    ASSERT_TRUE(Rope(lender.device, Arguments(lender, inverse)).ok());
    lender.Returned();
  }

  RopeCase c;
  DType dtype;
  int64_t stride;
  Buffer x, y, cos, sin;
};

/// Two products and a sum in float32, one rounding of the element type.
inline void ExpectReference(const RopeCase& c, DType dtype, Lender& lender) {
  for (const bool inverse : {false, true}) {
    SCOPED_TRACE(Name(c, dtype) + (inverse ? " inverse" : ""));
    RopeProblem fast(c, dtype);
    fast.Run(lender, inverse);
    RopeProblem slow(c, dtype);
    Lender reference(Device::kCpuReference);
    slow.Run(reference, inverse);
    ExpectClose("y", fast.y, slow.y, Unit(dtype), 2);
  }
}

}  // namespace sbora::kernels::testing
