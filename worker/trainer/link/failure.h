/// A Status as the protocol's Error: what happened and why the attempt ended.
#pragma once

#include "common/status.h"
#include "sbora/trainer/v1/trainer.pb.h"
#include "worker/trainer/link/exit_code.h"

namespace sbora::trainer {

/// REQUIRED: !status.ok().
sbora::v1::TerminationReason ReasonOf(const Status& status);
v1::Error ToError(const Status& status);
ExitCode ExitCodeOf(const Status& status);

}  // namespace sbora::trainer
