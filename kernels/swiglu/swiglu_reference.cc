// The formulas in double: what the other backends are compared with.
#include <cmath>

#include "kernels/reference.h"
#include "kernels/swiglu/swiglu_internal.h"

namespace sbora::kernels::internal {
namespace {

struct Forward {
  template <typename T>
  static void Run(const SwiGluArguments& a) {
    for (int64_t t = 0; t < a.rows; ++t) {
      for (int64_t f = 0; f < a.columns; ++f) {
        const double gate = At<T>(a.gate_TF, t * a.gate_stride + f);
        Put<T>(a.y_TF, t * a.y_stride + f, gate / (1 + std::exp(-gate)) * At<T>(a.up_TF, t * a.up_stride + f));
      }
    }
  }
};

struct Backward {
  template <typename T>
  static void Run(const SwiGluBackwardArguments& a) {
    for (int64_t t = 0; t < a.rows; ++t) {
      for (int64_t f = 0; f < a.columns; ++f) {
        const double gate = At<T>(a.gate_TF, t * a.gate_stride + f);
        const double grad = At<T>(a.grad_TF, t * a.grad_stride + f);
        const double s = 1 / (1 + std::exp(-gate));
        Put<T>(a.dup_TF, t * a.dup_stride + f, grad * gate * s);
        Put<T>(a.dgate_TF, t * a.dgate_stride + f,
               grad * At<T>(a.up_TF, t * a.up_stride + f) * s * (1 + gate * (1 - s)));
      }
    }
  }
};

}  // namespace

void SwiGluReference(const SwiGluArguments& arguments) { ForElements<Forward>(arguments.dtype, arguments); }
void SwiGluBackwardReference(const SwiGluBackwardArguments& arguments) {
  ForElements<Backward>(arguments.dtype, arguments);
}

}  // namespace sbora::kernels::internal
