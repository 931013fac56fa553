#include "core/region_draw.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"
#include "core/r_index.h"

namespace sbora::core {
namespace {

constexpr size_t kNamedHolders = 3;

/// Targets of one layer that get one index vector.
struct IndexGroup {
  std::string name;  ///< what the draw is keyed by
  std::vector<LinearModule> modules;
  std::vector<std::string> paths;  ///< of the modules
  int64_t dim = 0;
  int64_t rank = 0;                ///< of all of its modules
};

bool ReadsAttentionInput(LinearModule module) {
  return module == LinearModule::kQ || module == LinearModule::kK || module == LinearModule::kV;
}

std::string GroupName(int64_t layer, LinearModule module, bool share) {
  if (share && ReadsAttentionInput(module)) return fmt::format("model.layers.{}.self_attn.qkv", layer);
  if (share && (module == LinearModule::kGate || module == LinearModule::kUp)) {
    return fmt::format("model.layers.{}.mlp.gate_up", layer);
  }
  return ModulePath(layer, module);
}

std::vector<IndexGroup> GroupsOf(const ModelConfig& base, const AdapterSpec& adapter) {
  std::vector<IndexGroup> groups;
  for (const AdaptedModule& each : AdaptedModules(base, adapter.placement())) {
    std::string name = GroupName(each.layer, each.module, adapter.share_indices);
    const auto found = std::find_if(groups.begin(), groups.end(), [&](const IndexGroup& g) { return g.name == name; });
    IndexGroup& group = found != groups.end() ? *found : groups.emplace_back();
    group.name = std::move(name);
    group.modules.push_back(each.module);
    group.paths.push_back(ModulePath(each.layer, each.module));
    group.dim = IndexDim(adapter.method, each.shape);
    group.rank = each.rank;  // CheckJobSpec holds modules that share indices to one rank
  }
  return groups;
}

/// What holders have of each module.
class HeldRegions {
 public:
  explicit HeldRegions(std::span<const RegionHolder> holders) {
    for (const RegionHolder& holder : holders) {
      for (const Region& region : holder.regions) by_module_[region.module].push_back({&holder.name, &region});
    }
  }

  struct Held {
    const std::string* holder;
    const Region* region;
  };

  const std::vector<Held>& Of(const std::string& path) const {
    static const std::vector<Held> none;
    const auto found = by_module_.find(path);
    return found == by_module_.end() ? none : found->second;
  }

  /// The first one in the group that no rank can be disjoint from; null when there is none.
  const Held* Blocker(const IndexGroup& group, RegionAxis axis) const {
    for (const std::string& path : group.paths) {
      for (const Held& held : Of(path)) {
        if (held.region->axis != axis) return &held;
      }
    }
    return nullptr;
  }

  /// Coordinates held in any module of the group, ascending and distinct, and who holds them.
  std::vector<int32_t> Taken(const IndexGroup& group, std::set<std::string>* names) const {
    std::vector<int32_t> taken;
    for (const std::string& path : group.paths) {
      for (const Held& held : Of(path)) {
        taken.insert(taken.end(), held.region->indices.begin(), held.region->indices.end());
        if (names != nullptr) names->insert(*held.holder);
      }
    }
    std::sort(taken.begin(), taken.end());
    taken.erase(std::unique(taken.begin(), taken.end()), taken.end());
    return taken;
  }

  int64_t Free(const IndexGroup& group, RegionAxis axis) const {
    return Blocker(group, axis) != nullptr ? 0 : group.dim - std::ssize(Taken(group, nullptr));
  }

 private:
  std::map<std::string, std::vector<Held>, std::less<>> by_module_;
};

std::string NameSome(const std::set<std::string>& names) {
  std::vector<std::string> some(names.begin(), names.end());
  const size_t more = some.size() > kNamedHolders ? some.size() - kNamedHolders : 0;
  some.resize(some.size() - more);
  return fmt::format("{}{}", fmt::join(some, ", "), more == 0 ? "" : fmt::format(" and {} more", more));
}

/// Targets for which `fails` holds in some layer, in their order: "k_proj, v_proj".
template <typename Fails>
std::string ModulesThat(const std::vector<IndexGroup>& groups, const std::vector<LinearModule>& targets,
                        const Fails& fails) {
  std::set<LinearModule> bad;
  for (const IndexGroup& group : groups) {
    if (fails(group)) bad.insert(group.modules.begin(), group.modules.end());
  }
  std::vector<std::string_view> names;
  for (const LinearModule module : targets) {
    if (bad.contains(module)) names.push_back(LinearModuleName(module));
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

Status Blocked(const AdapterSpec& adapter, const std::vector<IndexGroup>& groups, const HeldRegions& held,
               const HeldRegions::Held& blocker) {
  const RegionAxis axis = AxisOf(adapter.method);
  const std::string modules = ModulesThat(
      groups, adapter.target_modules, [&](const IndexGroup& group) { return held.Blocker(group, axis) != nullptr; });
  if (blocker.region->axis == RegionAxis::kWhole) {
    return FailedPrecondition(
               "REGION_DENSE",
               fmt::format("{} changes all of {}, so no region there is disjoint from it; leave {} out of "
                           "target_modules, delete it, or name in disjoint_from the adapters that matter",
                           *blocker.holder, blocker.region->module, modules))
        .WithMetadata("holder", *blocker.holder)
        .WithMetadata("module", blocker.region->module);
  }
  const bool fa = axis == RegionAxis::kInput;
  return FailedPrecondition(
             "REGION_AXIS_CONFLICT",
             fmt::format("{} holds {} of {} and {} would change {}: every row crosses every column, so they "
                         "are never disjoint; use {} here, or leave {} out of target_modules",
                         *blocker.holder, fa ? "rows" : "columns", blocker.region->module,
                         AdapterMethodName(adapter.method), fa ? "columns" : "rows", fa ? "sbora_fb" : "sbora_fa",
                         modules))
      .WithMetadata("holder", *blocker.holder)
      .WithMetadata("module", blocker.region->module);
}

Status Exhausted(const AdapterSpec& adapter, const std::vector<IndexGroup>& groups, const HeldRegions& held,
                 const IndexGroup& group) {
  const RegionAxis axis = AxisOf(adapter.method);
  std::set<std::string> holders;
  const int64_t taken = std::ssize(held.Taken(group, &holders));
  int64_t largest = group.dim;
  for (const IndexGroup& each : groups) largest = std::min(largest, held.Free(each, axis));
  const std::string full = ModulesThat(groups, adapter.target_modules,
                                       [&](const IndexGroup& each) { return held.Free(each, axis) < each.rank; });
  const std::string nearest = largest > 0
                                  ? fmt::format("Rank {} is the largest that fits every target; or leave", largest)
                                  : std::string("No rank fits every target: leave");
  return ResourceExhausted(
             "REGION_EXHAUSTED",
             fmt::format("{} has {} of {} {} coordinates free and rank {} needs more: {} are held by {}. {} "
                         "{} out of target_modules, or delete adapters",
                         fmt::join(group.paths, " with "), group.dim - taken, group.dim, RegionAxisName(axis),
                         group.rank, taken, NameSome(holders), nearest, full))
      .WithMetadata("module", group.paths.front())
      .WithMetadata("dim", std::to_string(group.dim))
      .WithMetadata("capacity", std::to_string(group.dim - taken))
      .WithMetadata("rank", std::to_string(group.rank))
      .WithMetadata("largest_rank", std::to_string(largest))
      .WithViolation("spec.adapter.rank", largest > 0 ? fmt::format("at most {} is free for every target", largest)
                                                      : std::string("nothing is free for some targets"));
}

RegionSet WholeTargets(const ModelConfig& base, const std::string& base_hash, const AdapterSpec& adapter) {
  AdapterSpec placed = adapter;
  if (adapter.method == AdapterMethod::kFull) {
    placed.target_modules.assign(std::begin(kAllLinearModules), std::end(kAllLinearModules));
    placed.pattern = {};
  }
  RegionSet regions;
  for (const AdaptedModule& each : AdaptedModules(base, placed.placement())) {
    regions.push_back({.base_hash = base_hash,
                       .module = ModulePath(each.layer, each.module),
                       .shape = each.shape,
                       .axis = RegionAxis::kWhole,
                       .indices = {}});
  }
  return regions;
}

Status CheckBase(const std::string& base_hash, std::span<const RegionHolder> avoid) {
  for (const RegionHolder& holder : avoid) {
    if (holder.regions.empty() || holder.regions.front().base_hash == base_hash) continue;
    return FailedPrecondition(
               "REGION_OTHER_BASE",
               fmt::format("{} was trained on base {}, this job's base is {}; regions of different bases never "
                           "meet and their adapters do not merge: leave it out of disjoint_from",
                           holder.name, holder.regions.front().base_hash, base_hash))
        .WithMetadata("holder", holder.name);
  }
  return OkStatus();
}

}  // namespace

StatusOr<RegionSet> DrawRegions(const ModelConfig& base, const std::string& base_hash, const AdapterSpec& adapter,
                                std::span<const RegionHolder> avoid) {
  SBORA_RETURN_IF_ERROR(CheckBase(base_hash, avoid));
  RegionSet regions;
  if (UsesIndices(adapter.method)) {
    const RegionAxis axis = AxisOf(adapter.method);
    const HeldRegions held(avoid);
    const std::vector<IndexGroup> groups = GroupsOf(base, adapter);
    for (const IndexGroup& group : groups) {
      if (const auto* blocker = held.Blocker(group, axis)) return Blocked(adapter, groups, held, *blocker);
      const std::vector<int32_t> taken = held.Taken(group, nullptr);
      if (group.rank <= group.dim && group.rank > group.dim - std::ssize(taken)) {
        return Exhausted(adapter, groups, held, group);
      }
      SBORA_ASSIGN_OR_RETURN(const std::vector<int32_t> indices,
                             DrawIndicesAvoiding(adapter.index_seed, group.name, group.dim, group.rank, taken));
      for (size_t i = 0; i < group.modules.size(); ++i) {
        regions.push_back({.base_hash = base_hash,
                           .module = group.paths[i],
                           .shape = LinearModuleShape(base, group.modules[i]),
                           .axis = axis,
                           .indices = indices});
      }
    }
  } else {
    regions = WholeTargets(base, base_hash, adapter);
  }
  std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) { return a.module < b.module; });
  return regions;
}

RegionCapacity CountCapacity(const ModelConfig& base, const AdapterSpec& adapter,
                             std::span<const RegionHolder> holders) {
  SBORA_CHECK(UsesIndices(adapter.method), "{} has no regions to count", AdapterMethodName(adapter.method));
  const HeldRegions held(holders);
  std::map<LinearModule, ModuleCapacity> by_module;
  for (const IndexGroup& group : GroupsOf(base, adapter)) {
    const int64_t free = held.Free(group, AxisOf(adapter.method));
    for (const LinearModule module : group.modules) {
      const int64_t left = free / group.rank;
      const auto [entry, fresh] = by_module.try_emplace(module, ModuleCapacity{module, group.dim, free, left});
      if (fresh) continue;
      entry->second.free = std::min(entry->second.free, free);
      entry->second.adapters_left = std::min(entry->second.adapters_left, left);
    }
  }
  RegionCapacity capacity{.holders = std::ssize(holders), .largest_rank = 0, .adapters_left = 0, .modules = {}};
  for (const LinearModule module : adapter.target_modules) {
    const ModuleCapacity& entry = by_module.at(module);
    const bool first = capacity.modules.empty();
    capacity.largest_rank = first ? entry.free : std::min(capacity.largest_rank, entry.free);
    capacity.adapters_left = first ? entry.adapters_left : std::min(capacity.adapters_left, entry.adapters_left);
    capacity.modules.push_back(entry);
  }
  return capacity;
}

}  // namespace sbora::core
