/// The range check of an AdamWStep, for the operations that take one.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <string>

#include "kernels/adamw_step.h"

namespace sbora::kernels::internal {

inline bool InRange(const AdamWStep& step) {
  const auto share = [](double value) { return value >= 0 && value < 1; };
  const auto finite = [](double value) { return std::isfinite(value) && value >= 0; };
  return share(step.beta1) && share(step.beta2) && finite(step.epsilon) && step.epsilon > 0 && finite(step.weight_decay) &&
         finite(step.learning_rate) && step.step >= 1;
}

inline std::string RangeOf(const AdamWStep& step) {
  return fmt::format("beta1={}, beta2={} (0 to below 1), epsilon={} (above 0), weight_decay={}, learning_rate={} (finite, not "
                     "negative), step={} (from 1): out of range",
                     step.beta1, step.beta2, step.epsilon, step.weight_decay, step.learning_rate, step.step);
}

}  // namespace sbora::kernels::internal
