/// How the ranks of a training run come together and part. Include only from .cc files that see LibTorch.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <string>

#include "common/status.h"
#include "worker/trainer/dist/gradient_reducer.h"
#include "worker/trainer/dist/process_group.h"
#include "worker/trainer/session/device.h"
#include "worker/trainer/session/task_observer.h"
#include "worker/trainer/session/trainee.h"

namespace sbora::trainer {

/// Null for a run of one rank. Errors: those of ProcessGroup::Join; FAILED_PRECONDITION WORLD_SIZE when there are not as many
/// ranks as the job asks for.
StatusOr<std::unique_ptr<ProcessGroup>> JoinGang(const GangPlace& place, int64_t asked_ranks, at::Device device);

/// Over the trainee's flat gradient, started from an adapter's backward pass, or after that of full fine-tuning. Also lets the
/// adapter's backward pass tell `observer` that it lives. Null without a group. All must outlive it.
std::unique_ptr<GradientReducer> MakeReducer(ProcessGroup* group, Trainee& trainee, TaskObserver& observer);

/// Before the first step: all ranks stand at the same step of the same run with the same number of CPU threads, so that what
/// each adds fits and their weights stay equal. Errors: ABORTED RANKS_DISAGREE on at least one rank, the others lose it; those
/// of sums.
Status CheckAgreement(ProcessGroup& group, int64_t step, const std::string& run_hash);

}  // namespace sbora::trainer
