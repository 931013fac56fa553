/// The name under which a task's token caches are kept: everything that decides their content goes in.
#pragma once

#include <optional>
#include <string>

#include "sbora/worker/v1/task.pb.h"

namespace sbora::agent {

/// Raised when the trainer writes its caches in another way.
inline constexpr int kTokenCacheVersion = 2;

/// 64 hex characters, or nullopt for tasks other than training, which read their data themselves. Goes in: the model's files except its weights, the
/// data sets' files, their formats, the part of the spec about data, and for held-out samples the seed.
std::optional<std::string> TokenCacheKey(const worker::v1::Task& task);

}  // namespace sbora::agent
