// Two short loops over each row. The weight's gradient walks down a strip of columns, whose sums stay in registers.
#include <cmath>

#include "kernels/rms_norm/rms_norm_internal.h"
#include "kernels/vectorize.h"

namespace sbora::kernels::internal {
namespace {

struct Forward {
  template <typename T>
  static void Run(const RmsNormArguments& a) {
    const T* __restrict w = static_cast<const T*>(a.w_H);
    for (int64_t t = 0; t < a.rows; ++t) {
      const T* __restrict x = static_cast<const T*>(a.x_TH) + t * a.columns;
      T* __restrict y = static_cast<T*>(a.y_TH) + t * a.columns;
      if (a.add_TH != nullptr) {
        const T* __restrict add = static_cast<const T*>(a.add_TH) + t * a.columns;
        T* __restrict sum = static_cast<T*>(a.sum_TH) + t * a.columns;
        for (int64_t i = 0; i < a.columns; ++i) sum[i] = Narrow<T>(Widen(x[i]) + Widen(add[i]));
        Normalise(a, t, sum, w, y);
      } else {
        Normalise(a, t, x, w, y);
      }
    }
  }

  template <typename T>
  static void Normalise(const RmsNormArguments& a, int64_t t, const T* __restrict x, const T* __restrict w,
                        T* __restrict y) {
    const float sum = Sum(a.columns, [x](int64_t i) { return Widen(x[i]) * Widen(x[i]); });
    const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(a.columns) + a.epsilon);
    a.inverse_T[t] = inverse;
    for (int64_t i = 0; i < a.columns; ++i) y[i] = Narrow<T>(Widen(Narrow<T>(Widen(x[i]) * inverse)) * Widen(w[i]));
  }
};

struct Backward {
  template <typename T>
  static void Run(const RmsNormBackwardArguments& a) {
    const T* __restrict w = static_cast<const T*>(a.w_H);
    for (int64_t t = 0; t < a.rows; ++t) {
      const T* __restrict x = static_cast<const T*>(a.x_TH) + t * a.columns;
      const T* __restrict grad = static_cast<const T*>(a.grad_TH) + t * a.columns;
      T* __restrict dx = static_cast<T*>(a.dx_TH) + t * a.columns;
      const float inverse = a.inverse_T[t];
      const float sum =
          Sum(a.columns, [=](int64_t i) { return Widen(grad[i]) * Widen(w[i]) * (Widen(x[i]) * inverse); });
      const float mean = sum / static_cast<float>(a.columns);
      const auto value = [=](int64_t i) {
        return inverse * (Widen(grad[i]) * Widen(w[i]) - Widen(x[i]) * inverse * mean);
      };
      if (a.add_TH != nullptr) {
        const T* __restrict add = static_cast<const T*>(a.add_TH) + t * a.columns;
        for (int64_t i = 0; i < a.columns; ++i) dx[i] = Narrow<T>(value(i) + Widen(add[i]));
      } else {
        for (int64_t i = 0; i < a.columns; ++i) dx[i] = Narrow<T>(value(i));
      }
    }
  }
};

struct WeightGradient {
  template <typename T>
  static void Run(const RmsNormWeightArguments& a) {
    constexpr int kStrip = 64;
    int64_t begin = 0;
    for (; begin + kStrip <= a.columns; begin += kStrip) {
      float sums[kStrip] = {};
      for (int64_t t = 0; t < a.rows; ++t) {
        const T* __restrict x = static_cast<const T*>(a.x_TH) + t * a.stride + begin;
        const T* __restrict grad = static_cast<const T*>(a.grad_TH) + t * a.stride + begin;
        const float inverse = a.inverse_T[t];
        for (int i = 0; i < kStrip; ++i) sums[i] += Widen(grad[i]) * (Widen(x[i]) * inverse);
      }
      for (int i = 0; i < kStrip; ++i) a.dw_H[begin + i] += sums[i];
    }
    for (; begin < a.columns; ++begin) {
      float sum = 0;
      for (int64_t t = 0; t < a.rows; ++t) {
        const int64_t i = t * a.stride + begin;
        sum += Widen(static_cast<const T*>(a.grad_TH)[i]) * (Widen(static_cast<const T*>(a.x_TH)[i]) * a.inverse_T[t]);
      }
      a.dw_H[begin] += sum;
    }
  }
};

}  // namespace

void RmsNormCpu(const RmsNormArguments& arguments, VectorUnit unit) {
  Vectorized<Forward>(unit, arguments.dtype, arguments);
}

void RmsNormBackwardCpu(const RmsNormBackwardArguments& arguments, VectorUnit unit) {
  Vectorized<Backward>(unit, arguments.dtype, arguments);
}

void RmsNormWeightGradientCpu(const RmsNormWeightArguments& arguments, VectorUnit unit) {
  Vectorized<WeightGradient>(unit, arguments.dtype, arguments);
}

}  // namespace sbora::kernels::internal
