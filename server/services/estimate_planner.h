/// What a fine-tuning spec would cost: core/estimate.h for the counts and the memory, finished jobs for the time.
#pragma once

#include "common/status.h"
#include "core/estimate.h"
#include "sbora/v1/job.pb.h"
#include "server/services/context.h"

namespace sbora::server {

/// From configurations and finished jobs alone; nothing is queued.
/// Errors: as PlanFineTuning for the spec and the model; INVALID_ARGUMENT INVALID_ESTIMATE for a
/// tokens_per_sample or supervised_share out of range.
StatusOr<v1::EstimateFineTuningJobResponse> EstimateFineTuning(const ServiceContext& services,
                                                               const v1::EstimateFineTuningJobRequest& request);

}  // namespace sbora::server
