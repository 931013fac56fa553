#include "worker/trainer/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sbora::trainer {

double LearningRateAt(const ScheduleOptions& options, int64_t step) {
  if (step < options.warmup_steps) {
    return options.peak * (static_cast<double>(step) / static_cast<double>(options.warmup_steps));
  }
  const double decay_steps = static_cast<double>(std::max<int64_t>(1, options.total_steps - options.warmup_steps));
  switch (options.kind) {
    case core::Schedule::kConstant:
      return options.peak;
    case core::Schedule::kLinear:
      return options.peak * std::max(0.0, static_cast<double>(options.total_steps - step) / decay_steps);
    case core::Schedule::kCosine: {
      const double progress = std::min(1.0, static_cast<double>(step - options.warmup_steps) / decay_steps);
      return options.peak * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
    }
  }
  return options.peak;
}

}  // namespace sbora::trainer
