// One loop, which is as fast as memory.
#include <cmath>

#include "kernels/adamw/adamw_internal.h"
#include "kernels/vectorize.h"

namespace sbora::kernels::internal {
namespace {

void Update(const AdamWArguments& a) {
  if (a.skip != nullptr && *a.skip != 0) return;
  const float factor = a.gradient_factor == nullptr ? 1.0f : *a.gradient_factor;
  const AdamWFactors f = FactorsOf(a.step);
  float* __restrict p = a.parameters;
  const float* __restrict gradients = a.gradients;
  float* __restrict m = a.m;
  float* __restrict v = a.v;
  for (int64_t i = 0; i < a.elements; ++i) {
    const float g = factor * gradients[i];
    const float first = m[i] + f.one_minus_beta1 * (g - m[i]);
    const float second = f.beta2 * v[i] + f.one_minus_beta2 * g * g;
    const float divisor = std::sqrt(second) / f.root_correction2 + f.epsilon;
    m[i] = first;
    v[i] = second;
    p[i] = p[i] * f.keep + f.negative_rate * first / divisor;
  }
}

}  // namespace

void UpdateAdamWCpu(const AdamWArguments& arguments, VectorUnit unit) { RunOn<&Update>(unit, arguments); }

}  // namespace sbora::kernels::internal
