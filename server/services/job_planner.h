/// From a request to work for the scheduler: every check that needs no worker, index vectors, inputs, task.
#pragma once

#include <string>

#include "common/status.h"
#include "core/job_spec.h"
#include "core/model_config.h"
#include "core/nf4_config.h"
#include "sbora/v1/job.pb.h"
#include "sbora/v1/model.pb.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/context.h"

namespace sbora::server {

struct PlannedJob {
  v1::FineTuningJob job;  ///< as it is stored: full names, every default
  SubmitRequest submit;
};

/// Draws the job's regions too, once; the transaction that accepts the job reserves them (ABORTED REGIONS_MOVED: plan again).
/// Errors: INVALID_ARGUMENT with one violation for each problem, NOT_FOUND for model or data set, ALREADY_EXISTS; those of
/// PlanRegions (server/services/job_regions.h).
StatusOr<PlannedJob> PlanFineTuning(const ServiceContext& services, const v1::CreateFineTuningJobRequest& request);

/// The shape of a stored model, and how its files hold the weights. Errors: as ModelConfigOf.
StatusOr<core::ModelForm> ModelFormOf(const v1::Model& model);
/// The shape of a stored model. FAILED_PRECONDITION when its config cannot be read: no request can mend that.
StatusOr<core::ModelConfig> ModelConfigOf(const v1::Model& model);

}  // namespace sbora::server
