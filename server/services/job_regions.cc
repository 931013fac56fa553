#include "server/services/job_regions.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/status_macros.h"
#include "server/services/convert.h"
#include "server/services/job_planner.h"
#include "server/services/requests.h"

namespace sbora::server {
namespace {

constexpr int kMaxCompared = 16;

/// The adapter that `name` stands for: its own name, its job's, or the id they share.
StatusOr<std::string> AdapterNameOf(const std::string& name, const std::string& project, std::string_view field) {
  const bool job = name.find("/fineTuningJobs/") != std::string::npos;
  const core::Collection collection = job ? core::Collection::kFineTuningJobs : core::Collection::kAdapters;
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseNameOrId(name, collection, project, field));
  if (parsed.project != project) {
    return InvalidArgument("OTHER_PROJECT", fmt::format("{} is not in projects/{}", name, project))
        .WithViolation(field, "must be in the same project");
  }
  return FullName(project, core::Collection::kAdapters, parsed.id);
}

/// projects/p/adapters/a -> projects/p/fineTuningJobs/a
std::string JobOfAdapter(const std::string& adapter) {
  return adapter.substr(0, adapter.find("/adapters/")) + "/fineTuningJobs/" + adapter.substr(adapter.rfind('/') + 1);
}

StatusOr<core::RegionHolder> HolderOf(const RegionRow& row) {
  SBORA_ASSIGN_OR_RETURN(core::RegionSet regions, core::ParseRegions(row.regions));
  return core::RegionHolder{row.name, std::move(regions)};
}

Status NotRecorded(const std::string& name) {
  return FailedPrecondition(
             "REGION_NOT_RECORDED",
             fmt::format("{} was made before regions were recorded, so nothing can be said about where it lies; "
                         "train it again, or name in disjoint_from the adapters that matter",
                         name))
      .WithMetadata("resource", name);
}

/// Why `adapter` holds nothing.
Status NoRegions(const ServiceContext& services, const std::string& adapter, std::string_view field) {
  if (services.store().GetResource(adapter).ok()) return NotRecorded(adapter);
  const std::string id = adapter.substr(adapter.rfind('/') + 1);
  const StatusOr<Work> work = services.store().GetWork(JobOfAdapter(adapter));
  const std::string why =
      work.ok() ? fmt::format("job {} is {} and has given its regions back", id, core::JobStateName(work->row.state))
                : fmt::format("there is no adapter and no job {}", id);
  return NotFound("REGION_HOLDER_NOT_FOUND", fmt::format("{} holds no regions: {}", adapter, why))
      .WithMetadata("resource", adapter)
      .WithViolation(field, "must name adapters, or jobs that have not ended");
}

StatusOr<core::RegionHolder> FindHolder(const ServiceContext& services, const std::string& adapter,
                                        std::string_view field) {
  SBORA_ASSIGN_OR_RETURN(const std::optional<RegionRow> row, services.store().FindRegions(adapter));
  return row ? HolderOf(*row) : StatusOr<core::RegionHolder>(NoRegions(services, adapter, field));
}

struct Held {
  std::vector<core::RegionHolder> holders;
  int64_t seen = 0;
};

/// Everybody of the project on the base.
StatusOr<Held> AllHolders(const ServiceContext& services, const RegionBase& base) {
  SBORA_ASSIGN_OR_RETURN(const HeldRegions registry, services.store().ListRegions(base.project, base.base_hash));
  if (!registry.unrecorded.empty()) return NotRecorded(registry.unrecorded);
  Held held{.holders = {}, .seen = registry.sequence};
  for (const RegionRow& row : registry.rows) {
    SBORA_ASSIGN_OR_RETURN(core::RegionHolder holder, HolderOf(row));
    held.holders.push_back(std::move(holder));
  }
  return held;
}

/// Those of `adapters` alone; one that holds nothing on this base is looked up by name, so that the answer says why.
StatusOr<Held> NamedHolders(const ServiceContext& services, const RegionBase& base,
                            const std::vector<std::string>& adapters) {
  SBORA_ASSIGN_OR_RETURN(const HeldRegions registry, services.store().ListRegions(base.project, base.base_hash));
  Held held{.holders = {}, .seen = registry.sequence};
  for (const std::string& adapter : adapters) {
    const auto row = std::find_if(registry.rows.begin(), registry.rows.end(),
                                  [&](const RegionRow& candidate) { return candidate.name == adapter; });
    StatusOr<core::RegionHolder> holder =
        row != registry.rows.end() ? HolderOf(*row) : FindHolder(services, adapter, "spec.adapter.disjoint_from");
    if (!holder.ok()) return holder.status();
    held.holders.push_back(*std::move(holder));
  }
  return held;
}

StatusOr<std::vector<std::string>> ResolveNames(const std::vector<std::string>& names, const std::string& project) {
  std::vector<std::string> adapters;
  for (const std::string& name : names) {
    SBORA_ASSIGN_OR_RETURN(std::string adapter, AdapterNameOf(name, project, "spec.adapter.disjoint_from"));
    if (std::find(adapters.begin(), adapters.end(), adapter) == adapters.end()) adapters.push_back(std::move(adapter));
  }
  return adapters;
}

/// The shapes of the base that `adapter` (or the job that makes it) is of; none when they are all gone.
StatusOr<std::optional<core::ModelConfig>> ConfigOfHolder(const ServiceContext& services, const std::string& adapter) {
  std::string model_name;
  if (const StatusOr<ResourceRow> row = services.store().GetResource(adapter); row.ok()) {
    SBORA_ASSIGN_OR_RETURN(const v1::Adapter message, AdapterOf(*row));
    model_name = message.model();
  } else {
    const StatusOr<Work> work = services.store().GetWork(JobOfAdapter(adapter));
    if (!work.ok()) return std::optional<core::ModelConfig>();
    v1::FineTuningJob job;
    SBORA_RETURN_IF_ERROR(ParseStored(work->payload->spec, "fine-tuning job", job));
    model_name = job.spec().model();
  }
  const StatusOr<ResourceRow> row = services.store().GetResource(model_name);
  if (!row.ok()) return std::optional<core::ModelConfig>();
  SBORA_ASSIGN_OR_RETURN(const v1::Model model, ModelOf(*row));
  SBORA_ASSIGN_OR_RETURN(core::ModelConfig config, ModelConfigOf(model));
  return std::optional<core::ModelConfig>(std::move(config));
}

v1::AdapterPair PairOf(const core::RegionHolder& first, const core::RegionHolder& second) {
  v1::AdapterPair pair;
  pair.set_first(first.name);
  pair.set_second(second.name);
  const std::vector<core::RegionHolder> both = {first, second};
  const Status exact = core::CheckMergesExactly(both);
  pair.set_merges_exactly(exact.ok());
  if (!exact.ok()) pair.set_reason(exact.message());
  if (!core::CheckOneBase(both).ok()) return pair;
  for (const core::RegionOverlap& overlap : core::CompareRegions(first.regions, second.regions)) {
    v1::ModuleOverlap& module = *pair.add_modules();
    module.set_module(overlap.module);
    module.set_first_axis(std::string(core::RegionAxisName(overlap.first_axis)));
    module.set_second_axis(std::string(core::RegionAxisName(overlap.second_axis)));
    module.set_first_coordinates(overlap.first_coordinates);
    module.set_second_coordinates(overlap.second_coordinates);
    module.set_shared_coordinates(overlap.shared_coordinates);
    module.set_shared_weights(overlap.shared_weights);
    module.set_share(overlap.share);
    module.set_axis_conflict(overlap.AxesDiffer() || overlap.first_axis == core::RegionAxis::kWhole);
  }
  return pair;
}

}  // namespace

bool AsksForDisjoint(const v1::AdapterSpec& adapter) {
  return adapter.disjoint_from_all() || adapter.disjoint_from_size() > 0;
}

StatusOr<PlannedRegions> PlanRegions(const ServiceContext& services, const RegionBase& base,
                                     core::AdapterSpec& adapter) {
  PlannedRegions planned;
  SBORA_ASSIGN_OR_RETURN(planned.avoid, ResolveNames(adapter.disjoint_from, base.project));
  planned.avoid_all = adapter.disjoint_from_all;
  adapter.disjoint_from = planned.avoid;
  Held held;
  if (planned.avoid_all) {
    SBORA_ASSIGN_OR_RETURN(held, AllHolders(services, base));
  } else if (!planned.avoid.empty()) {
    SBORA_ASSIGN_OR_RETURN(held, NamedHolders(services, base, planned.avoid));
  }
  planned.seen = held.seen;
  SBORA_ASSIGN_OR_RETURN(planned.regions, core::DrawRegions(base.config, base.base_hash, adapter, held.holders));
  return planned;
}

PutRegions ReservationOf(const PlannedRegions& planned, const RegionBase& base, const std::string& name,
                         const std::string& work_uid) {
  return {.row = {.name = name,
                  .project = base.project,
                  .base_hash = base.base_hash,
                  .work_uid = work_uid,
                  .regions = core::ToJson(planned.regions)},
          .avoid = planned.avoid,
          .avoid_all = planned.avoid_all,
          .seen = planned.seen};
}

StatusOr<std::optional<v1::RegionCapacity>> CapacityFor(const ServiceContext& services, const RegionBase& base,
                                                        const core::AdapterSpec& adapter) {
  if (!core::UsesIndices(adapter.method)) return std::optional<v1::RegionCapacity>();
  Held held;
  if (adapter.disjoint_from.empty()) {
    StatusOr<Held> all = AllHolders(services, base);
    const bool asks = adapter.disjoint_from_all;
    if (!asks && all.status().reason() == "REGION_NOT_RECORDED") return std::optional<v1::RegionCapacity>();
    if (!all.ok()) return all.status();
    held = *std::move(all);
  } else {
    SBORA_ASSIGN_OR_RETURN(const std::vector<std::string> names, ResolveNames(adapter.disjoint_from, base.project));
    SBORA_ASSIGN_OR_RETURN(held, NamedHolders(services, base, names));
  }
  const core::RegionCapacity capacity = core::CountCapacity(base.config, adapter, held.holders);
  v1::RegionCapacity message;
  message.set_holders(capacity.holders);
  message.set_largest_rank(capacity.largest_rank);
  message.set_adapters_left(capacity.adapters_left);
  for (const core::ModuleCapacity& module : capacity.modules) {
    const std::string_view name = core::LinearModuleName(module.module);
    auto& entry = *message.add_modules();
    entry.set_module(std::string(name.substr(0, name.find('_'))));
    entry.set_coordinates(module.coordinates);
    entry.set_free(module.free);
    entry.set_adapters_left(module.adapters_left);
  }
  return std::optional<v1::RegionCapacity>(std::move(message));
}

StatusOr<std::vector<core::RegionHolder>> HoldersOf(const ServiceContext& services, const std::string& project,
                                                    std::span<const std::string> names, std::string_view field) {
  std::vector<core::RegionHolder> holders;
  for (const std::string& name : names) {
    SBORA_ASSIGN_OR_RETURN(const std::string adapter, AdapterNameOf(name, project, field));
    SBORA_ASSIGN_OR_RETURN(core::RegionHolder holder, FindHolder(services, adapter, field));
    holders.push_back(std::move(holder));
  }
  return holders;
}

StatusOr<v1::CompareAdaptersResponse> CompareAdapters(const ServiceContext& services,
                                                      const v1::CompareAdaptersRequest& request) {
  SBORA_ASSIGN_OR_RETURN(const std::string project, core::ParseProject(request.parent(), "parent"));
  if (request.adapters_size() < 2 || request.adapters_size() > kMaxCompared) {
    return InvalidArgument("ADAPTERS_COUNT", fmt::format("{} adapters are named; from 2 to {} can be compared at once",
                                                         request.adapters_size(), kMaxCompared))
        .WithViolation("adapters", fmt::format("must name from 2 to {}", kMaxCompared));
  }
  const std::vector<std::string> names(request.adapters().begin(), request.adapters().end());
  SBORA_ASSIGN_OR_RETURN(const std::vector<core::RegionHolder> holders,
                         HoldersOf(services, project, names, "adapters"));
  std::set<std::string> distinct;
  for (const core::RegionHolder& holder : holders) {
    if (distinct.insert(holder.name).second) continue;
    return InvalidArgument("ADAPTER_DUPLICATE", fmt::format("{} is named twice", holder.name))
        .WithViolation("adapters", "must be distinct");
  }
  v1::CompareAdaptersResponse response;
  for (size_t i = 0; i < holders.size(); ++i) {
    for (size_t j = i + 1; j < holders.size(); ++j) *response.add_pairs() = PairOf(holders[i], holders[j]);
  }
  response.set_merges_exactly(core::CheckMergesExactly(holders).ok());
  if (!core::CheckOneBase(holders).ok()) return response;
  SBORA_ASSIGN_OR_RETURN(const auto config, ConfigOfHolder(services, holders.front().name));
  if (config) *response.mutable_changed_weights() = ToProto(core::CountChangedWeights(*config, holders));
  return response;
}

v1::ChangedWeights ToProto(const core::ChangedWeights& count) {
  v1::ChangedWeights message;
  message.set_changed(count.changed);
  message.set_in_targets(count.in_targets);
  message.set_in_model(count.in_model);
  return message;
}

}  // namespace sbora::server
