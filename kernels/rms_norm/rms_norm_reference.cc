// The formulas with sums in double: what the other backends are compared with.
#include <cmath>

#include "kernels/reference.h"
#include "kernels/rms_norm/rms_norm_internal.h"

namespace sbora::kernels::internal {
namespace {

struct Forward {
  template <typename T>
  static void Run(const RmsNormArguments& a) {
    for (int64_t t = 0; t < a.rows; ++t) {
      const int64_t row = t * a.columns;
      const void* x_TH = a.x_TH;
      if (a.add_TH != nullptr) {
        for (int64_t i = row; i < row + a.columns; ++i) Put<T>(a.sum_TH, i, At<T>(a.x_TH, i) + At<T>(a.add_TH, i));
        x_TH = a.sum_TH;
      }
      double sum = 0;
      for (int64_t i = row; i < row + a.columns; ++i) sum += At<T>(x_TH, i) * At<T>(x_TH, i);
      const double inverse = 1 / std::sqrt(sum / static_cast<double>(a.columns) + double{a.epsilon});
      a.inverse_T[t] = static_cast<float>(inverse);
      for (int64_t i = row; i < row + a.columns; ++i) {
        Put<T>(a.y_TH, i, At<T>(x_TH, i) * inverse);
        Put<T>(a.y_TH, i, At<T>(a.y_TH, i) * At<T>(a.w_H, i - row));
      }
    }
  }
};

struct Backward {
  template <typename T>
  static void Run(const RmsNormBackwardArguments& a) {
    for (int64_t t = 0; t < a.rows; ++t) {
      const int64_t row = t * a.columns;
      const double inverse = double{a.inverse_T[t]};
      double sum = 0;
      for (int64_t h = 0; h < a.columns; ++h) {
        sum += At<T>(a.grad_TH, row + h) * At<T>(a.w_H, h) * At<T>(a.x_TH, row + h) * inverse;
      }
      const double mean = sum / static_cast<double>(a.columns);
      for (int64_t h = 0; h < a.columns; ++h) {
        const int64_t i = row + h;
        const double dx = inverse * (At<T>(a.grad_TH, i) * At<T>(a.w_H, h) - At<T>(a.x_TH, i) * inverse * mean);
        Put<T>(a.dx_TH, i, dx + (a.add_TH == nullptr ? 0 : At<T>(a.add_TH, i)));
      }
    }
  }
};

struct WeightGradient {
  template <typename T>
  static void Run(const RmsNormWeightArguments& a) {
    for (int64_t h = 0; h < a.columns; ++h) {
      double sum = 0;
      for (int64_t t = 0; t < a.rows; ++t) {
        sum += At<T>(a.grad_TH, t * a.stride + h) * At<T>(a.x_TH, t * a.stride + h) * double{a.inverse_T[t]};
      }
      a.dw_H[h] = static_cast<float>(double{a.dw_H[h]} + sum);
    }
  }
};

}  // namespace

void RmsNormReference(const RmsNormArguments& arguments) { ForElements<Forward>(arguments.dtype, arguments); }

void RmsNormBackwardReference(const RmsNormBackwardArguments& arguments) {
  ForElements<Backward>(arguments.dtype, arguments);
}

void RmsNormWeightGradientReference(const RmsNormWeightArguments& arguments) {
  ForElements<WeightGradient>(arguments.dtype, arguments);
}

}  // namespace sbora::kernels::internal
