// Element by element; the exponential is a polynomial that the compiler vectorises.
#include "kernels/swiglu/swiglu_internal.h"
#include "kernels/vectorize.h"

namespace sbora::kernels::internal {
namespace {

struct Forward {
  template <typename T>
  static void Run(const SwiGluArguments& a) {
    for (int64_t t = 0; t < a.rows; ++t) {
      const T* __restrict gate = static_cast<const T*>(a.gate_TF) + t * a.gate_stride;
      const T* __restrict up = static_cast<const T*>(a.up_TF) + t * a.up_stride;
      T* __restrict y = static_cast<T*>(a.y_TF) + t * a.y_stride;
      for (int64_t f = 0; f < a.columns; ++f) {
        const float g = Widen(gate[f]);
        y[f] = Narrow<T>(g * Sigmoid(g) * Widen(up[f]));
      }
    }
  }
};

struct Backward {
  template <typename T>
  static void Run(const SwiGluBackwardArguments& a) {
    for (int64_t t = 0; t < a.rows; ++t) {
      const T* __restrict gate = static_cast<const T*>(a.gate_TF) + t * a.gate_stride;
      const T* __restrict up = static_cast<const T*>(a.up_TF) + t * a.up_stride;
      const T* __restrict grad = static_cast<const T*>(a.grad_TF) + t * a.grad_stride;
      T* __restrict dgate = static_cast<T*>(a.dgate_TF) + t * a.dgate_stride;
      T* __restrict dup = static_cast<T*>(a.dup_TF) + t * a.dup_stride;
      for (int64_t f = 0; f < a.columns; ++f) {
        const float g = Widen(gate[f]);
        const float s = Sigmoid(g);
        const float gradient = Widen(grad[f]);
        dup[f] = Narrow<T>(gradient * g * s);
        dgate[f] = Narrow<T>(gradient * Widen(up[f]) * s * (1.0f + g * (1.0f - s)));
      }
    }
  }
};

}  // namespace

void SwiGluCpu(const SwiGluArguments& arguments, VectorUnit unit) {
  Vectorized<Forward>(unit, arguments.dtype, arguments);
}

void SwiGluBackwardCpu(const SwiGluBackwardArguments& arguments, VectorUnit unit) {
  Vectorized<Backward>(unit, arguments.dtype, arguments);
}

}  // namespace sbora::kernels::internal
