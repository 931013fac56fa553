// The formulas in double: what the other backends are compared with.
#include <cmath>
#include <limits>

#include "kernels/cross_entropy/cross_entropy_internal.h"
#include "kernels/reference.h"

namespace sbora::kernels::internal {
namespace {

struct Loss {
  template <typename T>
  static void Run(const CrossEntropyArguments& a) {
    for (int64_t s = 0; s < a.rows; ++s) {
      const int64_t row = s * a.stride;
      const int64_t target = a.target_S[s];
      double largest = -std::numeric_limits<double>::infinity();
      for (int64_t v = 0; v < a.columns; ++v) largest = std::fmax(largest, At<T>(a.logits_SV, row + v));
      double sum = 0;
      for (int64_t v = 0; v < a.columns; ++v) sum += std::exp(At<T>(a.logits_SV, row + v) - largest);
      const bool known = target >= 0 && target < a.columns;
      a.loss_S[s] = known ? static_cast<float>(std::log(sum) + largest - At<T>(a.logits_SV, row + target)) : std::nanf("");
      if (!a.gradient) continue;
      for (int64_t v = 0; v < a.columns; ++v) {
        Put<T>(a.logits_SV, row + v, std::exp(At<T>(a.logits_SV, row + v) - largest) / sum - (v == target ? 1 : 0));
      }
    }
  }
};

}  // namespace

void CrossEntropyReference(const CrossEntropyArguments& arguments) { ForElements<Loss>(arguments.dtype, arguments); }

}  // namespace sbora::kernels::internal
