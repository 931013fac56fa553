/// From the messages of a task to the plain requests of the sessions. The only reader of their fields in the trainer.
#pragma once

#include <filesystem>
#include <string>

#include "common/status.h"
#include "sbora/trainer/v1/trainer.pb.h"
#include "worker/trainer/session/quantize_base.h"
#include "worker/trainer/session/train_session.h"
#include "worker/trainer/tasks/evaluate.h"
#include "worker/trainer/tasks/merge.h"
#include "worker/trainer/tasks/prepare.h"

namespace sbora::trainer {

/// directories[name]. Errors: INVALID_ARGUMENT TASK_MALFORMED naming it.
StatusOr<std::filesystem::path> DirectoryOf(const v1::TaskAssignment& assignment, const std::string& name);

StatusOr<PrepareRequest> ToPrepareRequest(const v1::TaskAssignment& assignment);
/// Finds the caches in directories["token_cache"] and ["validation_cache"].
StatusOr<TrainRequest> ToTrainRequest(const v1::TaskAssignment& assignment);
StatusOr<EvaluateRequest> ToEvaluateRequest(const v1::TaskAssignment& assignment);
StatusOr<GenerateTextRequest> ToGenerateRequest(const v1::TaskAssignment& assignment);
StatusOr<QuantizeRequest> ToQuantizeRequest(const v1::TaskAssignment& assignment);
/// Without progress and cancelling.
StatusOr<MergeRequest> ToMergeRequest(const v1::TaskAssignment& assignment);
/// Of a merge, or an export that needs the base.
StatusOr<MergeBase> ToMergeBase(const v1::TaskAssignment& assignment);

worker::v1::TaskResult ToProto(const TrainOutcome& outcome);
/// Carries the first 20 examples.
worker::v1::TaskResult ToProto(const EvaluateOutcome& outcome, data::Scoring scoring);

}  // namespace sbora::trainer
