/// Which linear layers an adapter sits on, and rank and alpha of each: the job's `target_modules`, `target_layers`,
/// `rank_pattern` and `alpha_pattern` (PEFT's target_modules, layers_to_transform, rank_pattern and alpha_pattern, with
/// names in place of regular expressions).
///
///     for (const AdaptedModule& each : AdaptedModules(base, {targets, rank, alpha, pattern})) ...
///
/// Pure functions, thread-safe.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/model_config.h"

namespace sbora::core {

/// A module of every layer, or of one.
struct ModuleKey {
  static constexpr int64_t kEveryLayer = -1;

  int64_t layer = kEveryLayer;
  LinearModule module = LinearModule::kQ;

  auto operator<=>(const ModuleKey&) const = default;
};

/// "q_proj", or "model.layers.3.self_attn.q_proj". ParseModuleKey(ToString(k)) == k.
std::string ToString(const ModuleKey& key);
/// Also "q", "layers.3.q", "layers.3.self_attn.q_proj" and "model.layers.3.q_proj".
/// Errors: INVALID_ARGUMENT TARGET_MODULE_UNKNOWN naming what is known.
StatusOr<ModuleKey> ParseModuleKey(std::string_view name);

/// What goes beyond one rank on the same modules of all layers. Empty: nothing does.
struct AdapterPattern {
  std::vector<int64_t> layers = {};         ///< adapted layers, ascending, distinct; empty: all
  std::vector<ModuleKey> single = {};       ///< targets in one layer, ascending, distinct; not with `layers`
  std::map<ModuleKey, int64_t> ranks = {};  ///< of targets whose rank is not the adapter's
  std::map<ModuleKey, double> alphas = {};

  bool empty() const { return layers.empty() && single.empty() && ranks.empty() && alphas.empty(); }
  bool operator==(const AdapterPattern&) const = default;
};

/// Everything that decides where an adapter sits. Borrows its vectors.
struct AdapterPlacement {
  const std::vector<LinearModule>& targets;  ///< modules that are targets in at least one layer
  int64_t rank = 0;
  double alpha = 0;
  const AdapterPattern& pattern;
};

struct AdaptedModule {
  int64_t layer = 0;
  LinearModule module = LinearModule::kQ;
  ModuleShape shape;
  int64_t rank = 0;
  double alpha = 0;
};

/// Whether the module of that layer is a target. A target that `single` names is one in the layers named there only.
bool IsTarget(const AdapterPlacement& placement, int64_t layer, LinearModule module);
/// Of a target. An entry for the layer goes before one for every layer, and that before the adapter's own.
int64_t RankOf(const AdapterPlacement& placement, int64_t layer, LinearModule module);
double AlphaOf(const AdapterPlacement& placement, int64_t layer, LinearModule module);

/// All targets, layer by layer, in a layer in kAllLinearModules order.
std::vector<AdaptedModule> AdaptedModules(const ModelConfig& base, const AdapterPlacement& placement);

/// Layers are within the base, and every entry of `ranks` and `alphas` is of some target.
/// Errors: INVALID_ARGUMENT LAYER_OUT_OF_RANGE, PATTERN_UNUSED, each naming the entry and what to do, with a violation of
/// `target_layers`, `target_modules`, `rank_pattern` or `alpha_pattern`.
Status CheckPattern(const ModelConfig& base, const AdapterPlacement& placement);

/// "0-7,12" as a job writes layers: items are numbers and ranges with both ends. Ascending, distinct.
/// Errors: INVALID_ARGUMENT TARGET_LAYERS_MALFORMED naming the item.
StatusOr<std::vector<int64_t>> ParseLayers(const std::vector<std::string>& items);
/// The shortest such items. ParseLayers(LayerItems(l)) == l.
std::vector<std::string> LayerItems(const std::vector<int64_t>& layers);

}  // namespace sbora::core
