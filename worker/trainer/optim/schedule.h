/// Learning rates as functions of the step number, equal to transformers' get_scheduler.
#pragma once

#include <cstdint>

#include "core/job_spec.h"

namespace sbora::trainer {

struct ScheduleOptions {
  core::Schedule kind = core::Schedule::kLinear;
  double peak = 0;           ///< learning rate at the end of the warm-up
  int64_t warmup_steps = 0;  ///< linear from 0; step 0 of a run with warm-up has rate 0
  int64_t total_steps = 0;   ///< linear and cosine are 0 from this step on
};

/// The rate of optimizer step `step`, counted from 0. Pure: a resumed run needs no scheduler state.
double LearningRateAt(const ScheduleOptions& options, int64_t step);

}  // namespace sbora::trainer
