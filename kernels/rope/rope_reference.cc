// The formula in double: what the other backends are compared with.
#include "kernels/reference.h"
#include "kernels/rope/rope_internal.h"

namespace sbora::kernels::internal {
namespace {

struct Rotate {
  template <typename T>
  static void Run(const RopeArguments& a) {
    const int64_t half = a.head_dim / 2;
    for (int64_t t = 0; t < a.rows; ++t) {
      for (int64_t n = 0; n < a.heads; ++n) {
        for (int64_t i = 0; i < half; ++i) {
          const int64_t from = t * a.x_stride + n * a.head_dim + i;
          const int64_t to = (t * a.heads + n) * a.head_dim + i;
          const double cos = double{a.cos_TD2[t * half + i]};
          const double sin = (a.inverse ? -1 : 1) * double{a.sin_TD2[t * half + i]};
          Put<T>(a.y_TD, to, At<T>(a.x_TD, from) * cos - At<T>(a.x_TD, from + half) * sin);
          Put<T>(a.y_TD, to + half, At<T>(a.x_TD, from + half) * cos + At<T>(a.x_TD, from) * sin);
        }
      }
    }
  }
};

}  // namespace

void RopeReference(const RopeArguments& arguments) { ForElements<Rotate>(arguments.dtype, arguments); }

}  // namespace sbora::kernels::internal
