#include "worker/trainer/optim/schedule.h"

#include <gtest/gtest.h>

namespace sbora::trainer {
namespace {

struct Case {
  const char* title;
  ScheduleOptions options;
  int64_t step;
  double expected;
};

// Values of transformers.get_scheduler's lambdas times the peak.
TEST(ScheduleTest, EqualsTransformers) {
  const ScheduleOptions constant{.kind = core::Schedule::kConstant, .peak = 2e-4, .warmup_steps = 4, .total_steps = 10};
  const ScheduleOptions linear{.kind = core::Schedule::kLinear, .peak = 2e-4, .warmup_steps = 2, .total_steps = 10};
  const ScheduleOptions cosine{.kind = core::Schedule::kCosine, .peak = 1.0, .warmup_steps = 0, .total_steps = 8};
  const ScheduleOptions cosine_warm{.kind = core::Schedule::kCosine, .peak = 1.0, .warmup_steps = 2, .total_steps = 8};
  const Case cases[] = {
      {"constant starts its warm-up at 0", constant, 0, 0.0},
      {"constant, middle of the warm-up", constant, 3, 1.5e-4},
      {"constant after the warm-up", constant, 9, 2e-4},
      {"linear, last step of the warm-up", linear, 1, 1e-4},
      {"linear at its peak", linear, 2, 2e-4},
      {"linear in the middle", linear, 6, 1e-4},
      {"linear, last step", linear, 9, 2.5e-5},
      {"linear past its end", linear, 12, 0.0},
      {"cosine starts at the peak", cosine, 0, 1.0},
      {"cosine, first quarter", cosine, 2, 0.8535533905932737},
      {"cosine, half", cosine, 4, 0.5},
      {"cosine, last step", cosine, 7, 0.03806023374435663},
      {"cosine with warm-up, third", cosine_warm, 4, 0.75},
      {"cosine past its end", cosine, 9, 0.0},
  };
  for (const auto& [title, options, step, expected] : cases) {
    SCOPED_TRACE(title);
    EXPECT_NEAR(LearningRateAt(options, step), expected, 1e-15);
  }
}

TEST(ScheduleTest, WarmupLongerThanTheRunOnlyRises) {
  const ScheduleOptions options{.kind = core::Schedule::kLinear, .peak = 1.0, .warmup_steps = 100, .total_steps = 10};
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 9), 0.09);
}

}  // namespace
}  // namespace sbora::trainer
