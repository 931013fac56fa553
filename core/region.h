/// Regions: which weights of a base an adapter changes, and whether two adapters meet there.
///
/// A region lies in one linear layer W (d x k) of one base. SBoRA-FA changes the r columns of its input coordinates,
/// SBoRA-FB the r rows of its output coordinates (arXiv 2407.05413, "regional weight update"); LoRA, DoRA and full
/// fine-tuning change all of W. Two regions of one module are disjoint only when they lie on the same axis and share no
/// coordinate: every column crosses every row, so FA and FB never are (docs/adr/0006-regions.md). Adapters whose
/// regions are disjoint in every module merge exactly, in any order.
///
/// Coordinates are HF rows and columns, from 0. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/adapter.h"
#include "core/model_config.h"

namespace sbora::core {

enum class RegionAxis { kInput, kOutput, kWhole };

/// "input", "output", "whole".
std::string_view RegionAxisName(RegionAxis axis);
/// FA: kInput; FB: kOutput; LoRA, DoRA and full: kWhole.
RegionAxis AxisOf(AdapterMethod method);

struct Region {
  std::string base_hash;
  std::string module;  ///< ModulePath
  ModuleShape shape;   ///< of the module's weight
  RegionAxis axis = RegionAxis::kInput;
  std::vector<int32_t> indices;  ///< ascending, distinct, in range; empty for kWhole

  /// How many weights it holds.
  int64_t Weights() const;
  bool operator==(const Region&) const = default;
};

/// All regions of one adapter: one a module, ascending by module, all of one base.
using RegionSet = std::vector<Region>;

/// Who holds regions: an adapter, or a job that will make it.
struct RegionHolder {
  std::string name;
  RegionSet regions;
};

/// The regions of an adapter on disk; reads config and index tensors only.
StatusOr<RegionSet> RegionsOf(const AdapterFolder& adapter);

/// One JSON object, as the coordinator keeps it. ParseRegions(ToJson(r)) == r.
std::string ToJson(const RegionSet& regions);
/// Errors: INTERNAL REGIONS_MALFORMED: nobody but the coordinator writes them.
StatusOr<RegionSet> ParseRegions(std::string_view json_text);

/// How two regions of one module lie to each other.
struct RegionOverlap {
  std::string module;
  RegionAxis first_axis = RegionAxis::kInput;
  RegionAxis second_axis = RegionAxis::kInput;
  int64_t first_coordinates = 0;  ///< 0 for kWhole, as in the next two
  int64_t second_coordinates = 0;
  int64_t shared_coordinates = 0;  ///< 0 when the axes differ
  int64_t shared_weights = 0;      ///< 0: disjoint
  double share = 0.0;              ///< shared_weights over the weights of the smaller region, 0 to 1

  bool AxesDiffer() const { return first_axis != second_axis; }
};

/// Of every module that both have, ascending by module.
std::vector<RegionOverlap> CompareRegions(const RegionSet& first, const RegionSet& second);

/// OK when all of them are of one base and pairwise disjoint.
/// Errors: FAILED_PRECONDITION BASES_DIFFER naming two holders and their bases; REGIONS_OVERLAP naming the first pair,
/// its first module and the share, with metadata first, second, module, share.
Status CheckMergesExactly(std::span<const RegionHolder> holders);
/// The first half of it.
Status CheckOneBase(std::span<const RegionHolder> holders);

/// Weights that a merge changes; all others stay bit-identical.
struct ChangedWeights {
  int64_t changed = 0;
  int64_t in_targets = 0;  ///< all weights of the target modules
  int64_t in_model = 0;    ///< all weights of the base

  /// 0.0055 for FA at r 32 on LLaMA-3-8B's q, k, v, up, down.
  double ShareOfTargets() const { return static_cast<double>(changed) / static_cast<double>(in_targets); }
  bool operator==(const ChangedWeights&) const = default;
};

/// From the configuration alone. FA: d r a module, FB: r k, LoRA and DoRA: d k; full: the whole model.
ChangedWeights CountChangedWeights(const ModelConfig& base, AdapterMethod method,
                                   const std::vector<AdaptedModule>& modules);
/// Of one rank on the same modules of every layer.
ChangedWeights CountChangedWeights(const ModelConfig& base, AdapterMethod method, int64_t rank,
                                   const std::vector<LinearModule>& targets);
/// Of a merge of several: a weight that two of them change counts once.
ChangedWeights CountChangedWeights(const ModelConfig& base, std::span<const RegionHolder> holders);

}  // namespace sbora::core
