/// The identity of a run: what a checkpoint must agree with to be gone on from.
#pragma once

#include <string>

#include "worker/trainer/session/train_session.h"

namespace sbora::trainer {

/// SHA-256 (hex) over everything that decides the bytes of the adapter: adapter and training settings, indices, base
/// hash, and the keys of the token caches. Intervals of checkpoints, limits,
/// gradient checkpointing and the device do not count.
std::string RunHash(const TrainRequest& request, const std::string& token_cache_key,
                    const std::string& validation_cache_key);

}  // namespace sbora::trainer
