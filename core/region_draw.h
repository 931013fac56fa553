/// Drawing the regions of a job, also apart from those of others, and what is left for further adapters.
///
/// A draw is a pure function of the index seed, the module's (or group's) name, the shape, the rank and the set of
/// coordinates to stay out of; with nothing to stay out of it is the plain draw of r_index.h. With `share_indices`
/// modules that read one input share one vector: q, k, v of a layer under the name "model.layers.N.self_attn.qkv", gate
/// and up under "model.layers.N.mlp.gate_up", whichever of them are targets. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "core/model_config.h"
#include "core/region.h"

namespace sbora::core {

/// The regions of a job with this adapter, disjoint from all of `avoid`; for methods without indices, the whole
/// targets. Errors: RESOURCE_EXHAUSTED REGION_EXHAUSTED naming the module, its free and held coordinates, who holds
/// them, and the largest rank that still fits (metadata module, dim, capacity, rank, largest_rank); FAILED_PRECONDITION
/// REGION_AXIS_CONFLICT (FA against FB on one module), REGION_DENSE (against LoRA, DoRA, full), REGION_OTHER_BASE, each
/// naming the holder and a way out; INVALID_ARGUMENT RANK_OUT_OF_RANGE.
StatusOr<RegionSet> DrawRegions(const ModelConfig& base, const std::string& base_hash, const AdapterSpec& adapter,
                                std::span<const RegionHolder> avoid = {});

struct ModuleCapacity {
  LinearModule module = LinearModule::kQ;
  int64_t coordinates = 0;    ///< k for FA, d for FB
  int64_t free = 0;           ///< in the fullest layer; 0 where a holder changes the other axis or all of the module
  int64_t adapters_left = 0;  ///< of the job's rank
};

struct RegionCapacity {
  int64_t holders = 0;                  ///< that it was counted against
  int64_t largest_rank = 0;             ///< that still fits every target
  int64_t adapters_left = 0;            ///< of the job's rank and targets, disjoint from the holders and each other
  std::vector<ModuleCapacity> modules;  ///< the targets, in their order
};

/// REQUIRED: UsesIndices(adapter.method).
RegionCapacity CountCapacity(const ModelConfig& base, const AdapterSpec& adapter,
                             std::span<const RegionHolder> holders);

}  // namespace sbora::core
