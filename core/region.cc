#include "core/region.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/check.h"
#include "common/status_macros.h"
#include "core/r_index.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;

constexpr std::pair<RegionAxis, std::string_view> kAxes[] = {
    {RegionAxis::kInput, "input"}, {RegionAxis::kOutput, "output"}, {RegionAxis::kWhole, "whole"}};

/// What a coordinate of the axis holds: a column has d weights, a row k.
int64_t WeightsPerCoordinate(const ModuleShape& shape, RegionAxis axis) {
  return axis == RegionAxis::kInput ? shape.out_features : shape.in_features;
}

int64_t SharedCoordinates(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  std::vector<int32_t> shared;
  std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(shared));
  return std::ssize(shared);
}

RegionOverlap Compare(const Region& first, const Region& second) {
  RegionOverlap overlap{.module = first.module,
                        .first_axis = first.axis,
                        .second_axis = second.axis,
                        .first_coordinates = std::ssize(first.indices),
                        .second_coordinates = std::ssize(second.indices)};
  if (first.axis == RegionAxis::kWhole || second.axis == RegionAxis::kWhole) {
    overlap.shared_weights = std::min(first.Weights(), second.Weights());
  } else if (first.axis == second.axis) {
    overlap.shared_coordinates = SharedCoordinates(first.indices, second.indices);
    overlap.shared_weights = overlap.shared_coordinates * WeightsPerCoordinate(first.shape, first.axis);
  } else {
    overlap.shared_weights = overlap.first_coordinates * overlap.second_coordinates;
  }
  const int64_t smaller = std::min(first.Weights(), second.Weights());
  if (smaller > 0) overlap.share = static_cast<double>(overlap.shared_weights) / static_cast<double>(smaller);
  return overlap;
}

std::string Describe(const RegionOverlap& overlap) {
  if (overlap.first_axis == RegionAxis::kWhole || overlap.second_axis == RegionAxis::kWhole) {
    return fmt::format("one of them changes all of {}", overlap.module);
  }
  if (overlap.AxesDiffer()) {
    return fmt::format(
        "one changes columns and the other rows of {}, which cross in {} weights ({:.2f} % of the smaller "
        "region)",
        overlap.module, overlap.shared_weights, 100.0 * overlap.share);
  }
  return fmt::format("both change {} of {} and {} {} coordinates of {} ({:.2f} % of the smaller region)",
                     overlap.shared_coordinates, overlap.first_coordinates, overlap.second_coordinates,
                     RegionAxisName(overlap.first_axis), overlap.module, 100.0 * overlap.share);
}

Status CheckPair(const RegionHolder& first, const RegionHolder& second) {
  const std::vector<RegionOverlap> common = CompareRegions(first.regions, second.regions);
  const auto meets = [](const RegionOverlap& overlap) { return overlap.shared_weights > 0; };
  const auto worst = std::find_if(common.begin(), common.end(), meets);
  if (worst == common.end()) return OkStatus();
  const auto count = std::count_if(common.begin(), common.end(), meets);
  return FailedPrecondition(
             "REGIONS_OVERLAP",
             fmt::format("{} and {} do not merge exactly: {}; they meet in {} of {} common modules. Leave one "
                         "of them out, or allow the overlap to have them added up in float32",
                         first.name, second.name, Describe(*worst), count, common.size()))
      .WithMetadata("first", first.name)
      .WithMetadata("second", second.name)
      .WithMetadata("module", worst->module)
      .WithMetadata("share", fmt::format("{:.6f}", worst->share));
}

/// Columns, rows and their crossings, each weight once.
int64_t UnionWeights(const std::vector<const Region*>& regions) {
  std::vector<int32_t> columns, rows;
  for (const Region* region : regions) {
    if (region->axis == RegionAxis::kWhole) return region->Weights();
    std::vector<int32_t>& into = region->axis == RegionAxis::kInput ? columns : rows;
    into.insert(into.end(), region->indices.begin(), region->indices.end());
  }
  for (std::vector<int32_t>* list : {&columns, &rows}) {
    std::sort(list->begin(), list->end());
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
  const ModuleShape& shape = regions.front()->shape;
  return std::ssize(columns) * shape.out_features + std::ssize(rows) * shape.in_features -
         std::ssize(columns) * std::ssize(rows);
}

Status Malformed(std::string_view what) {
  return Internal("REGIONS_MALFORMED", fmt::format("stored regions cannot be read: {}", what));
}

StatusOr<Region> ParseRegion(const std::string& base_hash, RegionAxis axis, const std::string& module,
                             const Json& json) {
  if (!json.is_object() || !json.contains("shape") || !json.contains("indices")) return Malformed(module);
  const Json& shape = json["shape"];
  const Json& indices = json["indices"];
  const auto integer = [](const Json& value) { return value.is_number_integer(); };
  const bool good = shape.is_array() && shape.size() == 2 && std::all_of(shape.begin(), shape.end(), integer) &&
                    indices.is_array() && std::all_of(indices.begin(), indices.end(), integer);
  if (!good) return Malformed(module);
  Region region{.base_hash = base_hash,
                .module = module,
                .shape = {shape[0].get<int64_t>(), shape[1].get<int64_t>()},
                .axis = axis,
                .indices = indices.get<std::vector<int32_t>>()};
  if (axis == RegionAxis::kWhole) return region.indices.empty() ? StatusOr<Region>(region) : Malformed(module);
  const int64_t dim = axis == RegionAxis::kInput ? region.shape.in_features : region.shape.out_features;
  if (const Status checked = CheckIndices(region.indices, module, dim); !checked.ok())
    return Malformed(checked.message());
  return region;
}

}  // namespace

std::string_view RegionAxisName(RegionAxis axis) {
  for (const auto& [value, name] : kAxes) {
    if (value == axis) return name;
  }
  SBORA_CHECK(false, "axis {} is outside the enum", static_cast<int>(axis));
}

RegionAxis AxisOf(AdapterMethod method) {
  if (!UsesIndices(method)) return RegionAxis::kWhole;
  return method == AdapterMethod::kSboraFa ? RegionAxis::kInput : RegionAxis::kOutput;
}

int64_t Region::Weights() const {
  if (axis == RegionAxis::kWhole) return shape.out_features * shape.in_features;
  return std::ssize(indices) * WeightsPerCoordinate(shape, axis);
}

StatusOr<RegionSet> RegionsOf(const AdapterFolder& adapter) {
  const AdapterConfig& config = adapter.config();
  const std::vector<LinearModule> all(std::begin(kAllLinearModules), std::end(kAllLinearModules));
  const AdapterPattern none;
  const bool full = config.method == AdapterMethod::kFull;
  RegionSet regions;
  for (const AdaptedModule& each :
       full ? AdaptedModules(config.base_config, {all, config.rank, config.alpha, none}) : config.Modules()) {
    Region region{.base_hash = config.base_hash,
                  .module = ModulePath(each.layer, each.module),
                  .shape = each.shape,
                  .axis = AxisOf(config.method),
                  .indices = {}};
    if (UsesIndices(config.method)) {
      SBORA_ASSIGN_OR_RETURN(region.indices, adapter.Indices(each.layer, each.module));
    }
    regions.push_back(std::move(region));
  }
  std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) { return a.module < b.module; });
  return regions;
}

std::string ToJson(const RegionSet& regions) {
  Json modules = Json::object();
  for (const Region& region : regions) {
    modules[region.module] = {{"shape", {region.shape.out_features, region.shape.in_features}},
                              {"indices", region.indices}};
  }
  const RegionAxis axis = regions.empty() ? RegionAxis::kInput : regions.front().axis;
  return Json{{"base_hash", regions.empty() ? "" : regions.front().base_hash},
              {"axis", RegionAxisName(axis)},
              {"modules", std::move(modules)}}
      .dump();
}

StatusOr<RegionSet> ParseRegions(std::string_view json_text) {
  const Json json = Json::parse(json_text, nullptr, false);
  const bool good = json.is_object() && json.contains("base_hash") && json["base_hash"].is_string() &&
                    json.contains("axis") && json["axis"].is_string() && json.contains("modules") &&
                    json["modules"].is_object();
  if (!good) return Malformed("base_hash, axis or modules is missing");
  const auto axis_name = json["axis"].get<std::string>();
  const auto axis =
      std::find_if(std::begin(kAxes), std::end(kAxes), [&](const auto& a) { return a.second == axis_name; });
  if (axis == std::end(kAxes)) return Malformed("the axis is unknown");
  RegionSet regions;
  for (const auto& [module, value] : json["modules"].items()) {  // ascending by name
    SBORA_ASSIGN_OR_RETURN(Region region,
                           ParseRegion(json["base_hash"].get<std::string>(), axis->first, module, value));
    regions.push_back(std::move(region));
  }
  return regions;
}

std::vector<RegionOverlap> CompareRegions(const RegionSet& first, const RegionSet& second) {
  std::vector<RegionOverlap> overlaps;
  for (auto a = first.begin(), b = second.begin(); a != first.end() && b != second.end();) {
    if (a->module == b->module) {
      overlaps.push_back(Compare(*a++, *b++));
    } else {
      (a->module < b->module ? a : b)++;
    }
  }
  return overlaps;
}

Status CheckOneBase(std::span<const RegionHolder> holders) {
  const RegionHolder* reference = nullptr;
  for (const RegionHolder& holder : holders) {
    if (holder.regions.empty()) continue;
    if (reference == nullptr) reference = &holder;
    const std::string& wanted = reference->regions.front().base_hash;
    const std::string& found = holder.regions.front().base_hash;
    if (wanted == found) continue;
    return FailedPrecondition("BASES_DIFFER",
                              fmt::format("{} was trained on base {}, {} on base {}; only adapters of one "
                                          "base can be merged or compared",
                                          reference->name, wanted, holder.name, found))
        .WithMetadata("first", reference->name)
        .WithMetadata("second", holder.name);
  }
  return OkStatus();
}

Status CheckMergesExactly(std::span<const RegionHolder> holders) {
  SBORA_RETURN_IF_ERROR(CheckOneBase(holders));
  for (size_t i = 0; i < holders.size(); ++i) {
    for (size_t j = i + 1; j < holders.size(); ++j) SBORA_RETURN_IF_ERROR(CheckPair(holders[i], holders[j]));
  }
  return OkStatus();
}

ChangedWeights CountChangedWeights(const ModelConfig& base, AdapterMethod method,
                                   const std::vector<AdaptedModule>& modules) {
  ChangedWeights count{.changed = 0, .in_targets = 0, .in_model = ParameterCount(base)};
  if (method == AdapterMethod::kFull) return {count.in_model, count.in_model, count.in_model};
  const RegionAxis axis = AxisOf(method);
  for (const AdaptedModule& each : modules) {
    const int64_t all = each.shape.out_features * each.shape.in_features;
    count.in_targets += all;
    count.changed += axis == RegionAxis::kWhole ? all : each.rank * WeightsPerCoordinate(each.shape, axis);
  }
  return count;
}

ChangedWeights CountChangedWeights(const ModelConfig& base, AdapterMethod method, int64_t rank,
                                   const std::vector<LinearModule>& targets) {
  return CountChangedWeights(base, method, AdaptedModules(base, {targets, rank, 0, AdapterPattern()}));
}

ChangedWeights CountChangedWeights(const ModelConfig& base, std::span<const RegionHolder> holders) {
  std::map<std::string, std::vector<const Region*>> by_module;
  for (const RegionHolder& holder : holders) {
    for (const Region& region : holder.regions) by_module[region.module].push_back(&region);
  }
  ChangedWeights count{.changed = 0, .in_targets = 0, .in_model = ParameterCount(base)};
  for (const auto& [module, regions] : by_module) {
    count.changed += UnionWeights(regions);
    count.in_targets += regions.front()->shape.out_features * regions.front()->shape.in_features;
  }
  return count;
}

}  // namespace sbora::core
