// The formulas in double, each stored number rounded once: what the other backends are compared with.
#include <cmath>

#include "kernels/adamw/adamw_internal.h"

namespace sbora::kernels::internal {

void UpdateAdamWReference(const AdamWArguments& a) {
  if (a.skip != nullptr && *a.skip != 0) return;
  const AdamWStep& s = a.step;
  const auto t = static_cast<double>(s.step);
  const double factor = a.gradient_factor == nullptr ? 1.0 : double{*a.gradient_factor};
  for (int64_t i = 0; i < a.elements; ++i) {
    const double g = factor * double{a.gradients[i]};
    const double m = double{a.m[i]} + (1 - s.beta1) * (g - double{a.m[i]});
    const double v = s.beta2 * double{a.v[i]} + (1 - s.beta2) * g * g;
    const double divisor = std::sqrt(v) / std::sqrt(1 - std::pow(s.beta2, t)) + s.epsilon;
    const double kept = double{a.parameters[i]} * (1 - s.learning_rate * s.weight_decay);
    a.parameters[i] = static_cast<float>(kept - s.learning_rate / (1 - std::pow(s.beta1, t)) * m / divisor);
    a.m[i] = static_cast<float>(m);
    a.v[i] = static_cast<float>(v);
  }
}

}  // namespace sbora::kernels::internal
