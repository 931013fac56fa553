// Three passes over a row, of which the first reads memory and the others the second-level cache. In float32 the second
// leaves the exponentials in the row; narrower types would round them, so the third computes them again.
#include <cmath>
#include <type_traits>

#include "kernels/cross_entropy/cross_entropy_internal.h"
#include "kernels/vectorize.h"

namespace sbora::kernels::internal {
namespace {

struct Loss {
  template <typename T>
  static void Run(const CrossEntropyArguments& a) {
    for (int64_t s = 0; s < a.rows; ++s) {
      T* __restrict x = static_cast<T*>(a.logits_SV) + s * a.stride;
      const int64_t target = a.target_S[s];
      const bool known = target >= 0 && target < a.columns;
      const float at_target = known ? Widen(x[target]) : std::nanf("");
      const float largest = Largest(a.columns, [x](int64_t v) { return Widen(x[v]); });
      if (!a.gradient) {
        const float sum = Sum(a.columns, [=](int64_t v) { return Exp(Widen(x[v]) - largest); });
        a.loss_S[s] = std::log(sum) + (largest - at_target);
        continue;
      }
      float sum;
      if constexpr (std::is_same_v<T, float>) {
        sum = Sum(a.columns, [=](int64_t v) { return x[v] = Exp(x[v] - largest); });
        const float inverse = 1.0f / sum;
        for (int64_t v = 0; v < a.columns; ++v) x[v] *= inverse;
      } else {
        sum = Sum(a.columns, [=](int64_t v) { return Exp(Widen(x[v]) - largest); });
        const float inverse = 1.0f / sum;
        for (int64_t v = 0; v < a.columns; ++v) x[v] = Narrow<T>(Exp(Widen(x[v]) - largest) * inverse);
      }
      // From the float32 value: a probability near 1, rounded first, would leave nothing of its distance to 1.
      if (known) x[target] = Narrow<T>(Exp(at_target - largest) * (1.0f / sum) - 1.0f);
      a.loss_S[s] = std::log(sum) + (largest - at_target);
    }
  }
};

}  // namespace

void CrossEntropyCpu(const CrossEntropyArguments& arguments, VectorUnit unit) {
  Vectorized<Loss>(unit, arguments.dtype, arguments);
}

}  // namespace sbora::kernels::internal
