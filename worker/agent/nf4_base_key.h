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

/// Nullopt for tasks on a plain base, and for models whose own files are in NF4. A training says what it needs in its
/// spec; evaluation and generation, merge and patch in the config of their adapter (all of a merge are of one form);
/// evaluation and generation without one in their request. `inputs_folder` holds a folder for each input group.
/// Errors: those of core::ParseAdapterConfig.
StatusOr<std::optional<Nf4BaseNeed>> Nf4BaseNeedOf(const worker::v1::Task& task,
                                                   const std::filesystem::path& inputs_folder);

}  // namespace sbora::agent
