/// The case table of rms_norm, for its CPU and CUDA tests.
#pragma once

#include <string>

#include "kernels/rms_norm/rms_norm.h"
#include "tests/unit/kernels/row_kernels.h"

namespace sbora::kernels::testing {

struct RmsNormCase {
  int64_t rows, columns;
  bool add;
  int64_t shift;  // of all matrices, from a 16-byte border
};

// 0, 1, odd, the lanes of a sum and their neighbours, real widths, with and without the addition, unaligned.
inline constexpr RmsNormCase kRmsNormCases[] = {
    {0, 8, false, 0},   {3, 0, false, 0},   {1, 1, false, 0},    {1, 7, true, 0},     {5, 16, true, 0},
    {4, 63, false, 0},  {4, 64, true, 0},   {4, 65, false, 0},   {17, 128, true, 0},  {33, 576, true, 0},
    {9, 576, false, 1}, {7, 130, true, 3},  {3, 4096, false, 0}, {2, 4097, true, 0}};

inline std::string Name(const RmsNormCase& c, DType dtype) {
  return fmt::format("seed {} rows {} columns {} add {} shift {} {}", kSeed, c.rows, c.columns, c.add, c.shift, NameOf(dtype));
}

/// Inputs and outputs of the three operations.
struct RmsNormProblem {
  RmsNormProblem(const RmsNormCase& c, DType dtype)
      : c(c),
        dtype(dtype),
        x(c.rows * c.columns, dtype, c.shift),
        add(c.rows * c.columns, dtype, c.shift),
        w(c.columns, dtype, c.shift),
        sum(c.rows * c.columns, dtype, c.shift),
        y(c.rows * c.columns, dtype, c.shift),
        grad(c.rows * c.columns, dtype, c.shift),
        sum_grad(c.rows * c.columns, dtype, c.shift),
        dx(c.rows * c.columns, dtype, c.shift),
        inverse(c.rows, DType::kF32),
        dw(c.columns, DType::kF32) {
    x.FillNormal(1, 2);
    add.FillNormal(2);
    w.FillNormal(3);
    grad.FillNormal(4);
    sum_grad.FillNormal(5);
    dw.FillNormal(6);
  }

  RmsNormArguments Forward(Lender& lender) {
    return {.rows = c.rows, .columns = c.columns, .dtype = dtype, .epsilon = 1e-5f, .x_TH = lender.Lend(x),
            .add_TH = c.add ? lender.Lend(add) : nullptr, .w_H = lender.Lend(w),
            .sum_TH = c.add ? lender.Lend(sum) : nullptr, .y_TH = lender.Lend(y), .inverse_T = lender.As<float>(inverse)};
  }
  RmsNormBackwardArguments Backward(Lender& lender) {
    return {.rows = c.rows, .columns = c.columns, .dtype = dtype, .x_TH = lender.Lend(c.add ? sum : x),
            .w_H = lender.Lend(w), .inverse_T = lender.As<float>(inverse), .grad_TH = lender.Lend(grad),
            .add_TH = c.add ? lender.Lend(sum_grad) : nullptr, .dx_TH = lender.Lend(dx)};
  }
  RmsNormWeightArguments Weight(Lender& lender) {
    return {.rows = c.rows, .columns = c.columns, .stride = c.columns, .dtype = dtype, .x_TH = lender.Lend(c.add ? sum : x),
            .inverse_T = lender.As<float>(inverse), .grad_TH = lender.Lend(grad), .dw_H = lender.As<float>(dw)};
  }
  void Run(Lender& lender) {
    ASSERT_TRUE(RmsNorm(lender.device, Forward(lender)).ok());
    lender.Returned();
    ASSERT_TRUE(RmsNormBackward(lender.device, Backward(lender)).ok());
    lender.Returned();
    ASSERT_TRUE(RmsNormWeightGradient(lender.device, Weight(lender)).ok());
    lender.Returned();
  }

  RmsNormCase c;
  DType dtype;
  Buffer x, add, w, sum, y, grad, sum_grad, dx, inverse, dw;
};

/// Four roundings of the element type, and float32 sums of up to 4097 terms; dw is a float32 sum over the rows, whose error
/// grows with their number and does not shrink where the terms cancel.
inline void ExpectReference(const RmsNormCase& c, DType dtype, Lender& lender) {
  SCOPED_TRACE(Name(c, dtype));
  RmsNormProblem fast(c, dtype);
  fast.Run(lender);
  RmsNormProblem slow(c, dtype);
  Lender reference(Device::kCpuReference);
  slow.Run(reference);
  if (c.add) ExpectClose("sum", fast.sum, slow.sum, Unit(dtype), 1);
  ExpectClose("inverse", fast.inverse, slow.inverse, Unit(DType::kF32), 4);
  ExpectClose("y", fast.y, slow.y, Unit(dtype), 4);
  ExpectClose("dx", fast.dx, slow.dx, Unit(dtype), 8);
  ExpectClose("dw", fast.dw, slow.dw, Unit(DType::kF32), 64 + static_cast<double>(c.rows) / 8);
}

}  // namespace sbora::kernels::testing
