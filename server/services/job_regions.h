/// The registry of index regions, as jobs and adapters see it: what is held, what a new job gets, what is left.
///
/// A job's regions are drawn apart from what it asks to be disjoint from, as the store has it; whether that still holds
/// is judged inside the transaction that accepts the job (PutRegions), so that no two jobs get what one of them has
/// asked to stay out of. A job that lost the race is planned anew.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "core/region.h"
#include "core/region_draw.h"
#include "sbora/v1/adapter.pb.h"
#include "sbora/v1/job.pb.h"
#include "server/services/context.h"

namespace sbora::server {

/// A base, as the registry knows it.
struct RegionBase {
  std::string project;
  std::string base_hash;
  core::ModelConfig config;
};

struct PlannedRegions {
  core::RegionSet regions;
  std::vector<std::string> avoid;  ///< names of adapters, resolved
  bool avoid_all = false;
  int64_t seen = 0;  ///< the registry as it was
};

/// True when the job must stay out of others' regions.
bool AsksForDisjoint(const v1::AdapterSpec& adapter);

/// Draws the regions of a job and replaces `disjoint_from` by full names of adapters.
/// Errors: those of core::DrawRegions; NOT_FOUND REGION_HOLDER_NOT_FOUND for a name that holds none;
/// FAILED_PRECONDITION REGION_NOT_RECORDED for adapters made before regions were kept; INVALID_ARGUMENT for malformed
/// names, OTHER_PROJECT.
StatusOr<PlannedRegions> PlanRegions(const ServiceContext& services, const RegionBase& base,
                                     core::AdapterSpec& adapter);

/// The change that reserves them for the adapter `name` of job `work_uid`.
PutRegions ReservationOf(const PlannedRegions& planned, const RegionBase& base, const std::string& name,
                         const std::string& work_uid);

/// What is left for such a job: against the adapters it names, else against all of the project on the base. None for
/// methods without indices, and for a job that asks for nothing while some adapter's regions are not recorded. Errors:
/// as PlanRegions, for names.
StatusOr<std::optional<v1::RegionCapacity>> CapacityFor(const ServiceContext& services, const RegionBase& base,
                                                        const core::AdapterSpec& adapter);

/// Of adapters, or jobs that will make them, in the order of `names` (ids or full names). Errors: as PlanRegions;
/// `field` is named in violations.
StatusOr<std::vector<core::RegionHolder>> HoldersOf(const ServiceContext& services, const std::string& project,
                                                    std::span<const std::string> names, std::string_view field);

/// Every pair of them, and a merge of all. Errors: INVALID_ARGUMENT ADAPTERS_COUNT, ADAPTER_DUPLICATE and as HoldersOf.
StatusOr<v1::CompareAdaptersResponse> CompareAdapters(const ServiceContext& services,
                                                      const v1::CompareAdaptersRequest& request);

v1::ChangedWeights ToProto(const core::ChangedWeights& count);

}  // namespace sbora::server
