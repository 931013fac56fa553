// A row's table stays in the first-level cache for all its heads.
#include "kernels/rope/rope_internal.h"
#include "kernels/vectorize.h"

namespace sbora::kernels::internal {
namespace {

struct Rotate {
  template <typename T>
  static void Run(const RopeArguments& a) {
    const int64_t half = a.head_dim / 2;
    const float direction = a.inverse ? -1.0f : 1.0f;
    for (int64_t t = 0; t < a.rows; ++t) {
      const float* __restrict cos = a.cos_TD2 + t * half;
      const float* __restrict sin = a.sin_TD2 + t * half;
      for (int64_t n = 0; n < a.heads; ++n) {
        const T* __restrict x = static_cast<const T*>(a.x_TD) + t * a.x_stride + n * a.head_dim;
        T* __restrict y = static_cast<T*>(a.y_TD) + (t * a.heads + n) * a.head_dim;
        const T* __restrict x_second = x + half;
        T* __restrict y_second = y + half;
        for (int64_t i = 0; i < half; ++i) {
          const float first = Widen(x[i]);
          const float second = Widen(x_second[i]);
          const float turn = direction * sin[i];
          y[i] = Narrow<T>(first * cos[i] - second * turn);
          y_second[i] = Narrow<T>(second * cos[i] + first * turn);
        }
      }
    }
  }
};

}  // namespace

void RopeCpu(const RopeArguments& arguments, VectorUnit unit) {
  Vectorized<Rotate>(unit, arguments.dtype, arguments);
}

}  // namespace sbora::kernels::internal
