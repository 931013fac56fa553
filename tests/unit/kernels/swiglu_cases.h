/// The case table of swiglu, for its CPU and CUDA tests.
#pragma once

#include <string>

#include "kernels/swiglu/swiglu.h"
#include "tests/unit/kernels/row_kernels.h"

namespace sbora::kernels::testing {

struct SwiGluCase {
  int64_t rows, columns;
  int64_t padding;  // stride - columns, of all matrices
  int64_t shift;    // from a 16-byte border
};

// 0, 1, odd, vector widths and their neighbours, a real width, halves of a wider matrix, unaligned.
inline constexpr SwiGluCase kSwiGluCases[] = {{0, 8, 0, 0},   {3, 0, 0, 0},  {1, 1, 0, 0},   {1, 7, 0, 0},     {5, 16, 16, 0},
                                              {4, 33, 0, 0},  {9, 64, 5, 0}, {6, 40, 0, 1},  {3, 1536, 0, 0}, {2, 1537, 1, 0},
                                              {300, 24, 8, 0}};

inline std::string Name(const SwiGluCase& c, DType dtype) {
  return fmt::format("seed {} rows {} columns {} padding {} shift {} {}", kSeed, c.rows, c.columns, c.padding, c.shift,
                     NameOf(dtype));
}

struct SwiGluProblem {
  SwiGluProblem(const SwiGluCase& c, DType dtype)
      : c(c),
        dtype(dtype),
        stride(c.columns + c.padding),
        gate(c.rows * stride, dtype, c.shift),
        up(c.rows * stride, dtype, c.shift),
        grad(c.rows * stride, dtype, c.shift),
        y(c.rows * stride, dtype, c.shift),
        dgate(c.rows * stride, dtype, c.shift),
        dup(c.rows * stride, dtype, c.shift) {
    gate.FillNormal(1, 4);
    up.FillNormal(2);
    grad.FillNormal(3);
    // What lies between the columns and the stride must stay.
    y.FillNormal(4);
    dgate.FillNormal(5);
    dup.FillNormal(6);
  }
  SwiGluArguments Forward(Lender& lender) {
    return {.rows = c.rows, .columns = c.columns, .dtype = dtype, .gate_TF = lender.Lend(gate), .gate_stride = stride,
            .up_TF = lender.Lend(up), .up_stride = stride, .y_TF = lender.Lend(y), .y_stride = stride};
  }
  SwiGluBackwardArguments Backward(Lender& lender) {
    return {.rows = c.rows, .columns = c.columns, .dtype = dtype, .gate_TF = lender.Lend(gate), .gate_stride = stride,
            .up_TF = lender.Lend(up), .up_stride = stride, .grad_TF = lender.Lend(grad), .grad_stride = stride,
            .dgate_TF = lender.Lend(dgate), .dgate_stride = stride, .dup_TF = lender.Lend(dup), .dup_stride = stride};
  }
  void Run(Lender& lender) {
    ASSERT_TRUE(SwiGlu(lender.device, Forward(lender)).ok());
    lender.Returned();
    ASSERT_TRUE(SwiGluBackward(lender.device, Backward(lender)).ok());
    lender.Returned();
  }

  SwiGluCase c;
  DType dtype;
  int64_t stride;
  Buffer gate, up, grad, y, dgate, dup;
};

/// An exponential and a quotient in float32, and one rounding of the element type.
inline void ExpectReference(const SwiGluCase& c, DType dtype, Lender& lender) {
  SCOPED_TRACE(Name(c, dtype));
  SwiGluProblem fast(c, dtype);
  fast.Run(lender);
  SwiGluProblem slow(c, dtype);
  Lender reference(Device::kCpuReference);
  slow.Run(reference);
  ExpectClose("y", fast.y, slow.y, Unit(dtype), 4);
  ExpectClose("dgate", fast.dgate, slow.dgate, Unit(dtype), 8);
  ExpectClose("dup", fast.dup, slow.dup, Unit(dtype), 4);
}

}  // namespace sbora::kernels::testing
