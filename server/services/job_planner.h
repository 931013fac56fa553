/// From a request to work for the scheduler: every check that needs no worker, index vectors, inputs, task.
#pragma once

#include <string>

#include "common/status.h"
#include "core/job_spec.h"
#include "core/model_config.h"
#include "sbora/v1/job.pb.h"
#include "sbora/v1/model.pb.h"
#include "sbora/worker/v1/task.pb.h"
#include "server/services/context.h"

namespace sbora::server {

struct PlannedJob {
  v1::FineTuningJob job;  ///< as it is stored: full names, every default
  SubmitRequest submit;
};

/// Errors: INVALID_ARGUMENT with one violation for each problem, NOT_FOUND for model or data set, UNIMPLEMENTED
/// FEATURE_NOT_IMPLEMENTED, ALREADY_EXISTS.
StatusOr<PlannedJob> PlanFineTuning(const ServiceContext& services, const v1::CreateFineTuningJobRequest& request);

/// Index vectors of all targets, in the order of layers; drawn once, here.
StatusOr<google::protobuf::RepeatedPtrField<worker::v1::ModuleIndices>> DrawJobIndices(const core::ModelConfig& model,
                                                                                       const core::JobSpec& spec);

/// The shape of a stored model.
StatusOr<core::ModelConfig> ModelConfigOf(const v1::Model& model);

}  // namespace sbora::server
