/// Whether a task needs its model in NF4, and the name under which such a base is kept in the cache.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "common/status.h"
#include "sbora/worker/v1/task.pb.h"

namespace sbora::agent {

struct Nf4BaseNeed {
  std::string key;            ///< 64 hex characters: the model's config and weights, and how they are quantised
  worker::v1::Task quantize;  ///< what a trainer is given to make it
};

/// Nullopt for tasks on a plain base. A training says so in its spec, evaluation and generation in the config of the
/// adapter whose files lie in `adapter_folder`. Errors: those of core::ParseAdapterConfig.
StatusOr<std::optional<Nf4BaseNeed>> Nf4BaseNeedOf(const worker::v1::Task& task,
                                                   const std::filesystem::path& adapter_folder);

}  // namespace sbora::agent
