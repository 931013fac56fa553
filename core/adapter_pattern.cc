#include "core/adapter_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "common/status_macros.h"

namespace sbora::core {
namespace {

constexpr int64_t kMaxLayer = 100'000;  // of a name: far above any model, far below what a range could exhaust

std::optional<int64_t> ParseLayer(std::string_view text) {
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  const bool good = error == std::errc() && end == text.data() + text.size() && layer >= 0 && layer <= kMaxLayer;
  return good ? std::optional(layer) : std::nullopt;
}

Status UnknownModule(std::string_view name) {
  return InvalidArgument("TARGET_MODULE_UNKNOWN",
                         fmt::format("\"{}\" is no linear layer of a LLaMA block; write q_proj, k_proj, v_proj, o_proj, gate_proj, "
                                     "up_proj or down_proj, or one of a layer such as {}",
                                     name.substr(0, 80), ModulePath(0, LinearModule::kQ)))
      .WithViolation("target_modules", fmt::format("\"{}\" is not a linear layer of a LLaMA block", name.substr(0, 80)));
}

template <typename Value>
Value Lookup(const std::map<ModuleKey, Value>& entries, int64_t layer, LinearModule module, Value otherwise) {
  for (const int64_t level : {layer, ModuleKey::kEveryLayer}) {
    if (const auto found = entries.find({level, module}); found != entries.end()) return found->second;
  }
  return otherwise;
}

Status CheckLayer(const ModelConfig& base, int64_t layer, std::string_view field, const std::string& entry) {
  if (layer < base.num_layers) return OkStatus();
  return InvalidArgument("LAYER_OUT_OF_RANGE", fmt::format("{} names {}, the model has layers 0 to {}", field, entry,
                                                           base.num_layers - 1))
      .WithViolation(field, fmt::format("{} is outside the model's layers 0 to {}", entry, base.num_layers - 1));
}

template <typename Value>
Status CheckEntries(const ModelConfig& base, const AdapterPlacement& placement, const std::map<ModuleKey, Value>& entries,
                    std::string_view field) {
  for (const auto& [key, value] : entries) {
    SBORA_RETURN_IF_ERROR(CheckLayer(base, key.layer, field, ToString(key)));
    bool used = false;
    for (int64_t layer = 0; layer < base.num_layers && !used; ++layer) {
      used = (key.layer == ModuleKey::kEveryLayer || key.layer == layer) && IsTarget(placement, layer, key.module);
    }
    if (used) continue;
    return InvalidArgument("PATTERN_UNUSED", fmt::format("{} has an entry for {}, which is no target; add it to "
                                                         "target_modules or take the entry out",
                                                         field, ToString(key)))
        .WithViolation(field, fmt::format("{} is no target", ToString(key)));
  }
  return OkStatus();
}

}  // namespace

std::string ToString(const ModuleKey& key) {
  return key.layer == ModuleKey::kEveryLayer ? std::string(LinearModuleName(key.module)) : ModulePath(key.layer, key.module);
}

StatusOr<ModuleKey> ParseModuleKey(std::string_view name) {
  std::string_view rest = name;
  ModuleKey key;
  if (rest.starts_with("model.")) rest.remove_prefix(6);
  if (rest.starts_with("layers.")) {
    rest.remove_prefix(7);
    const size_t dot = rest.find('.');
    const auto layer = ParseLayer(rest.substr(0, dot));
    if (dot == std::string_view::npos || !layer) return UnknownModule(name);
    key.layer = *layer;
    rest.remove_prefix(dot + 1);
  } else if (rest.size() != name.size()) {
    return UnknownModule(name);
  }
  std::string_view block;
  if (const size_t dot = rest.find('.'); dot != std::string_view::npos && key.layer != ModuleKey::kEveryLayer) {
    block = rest.substr(0, dot);
    rest.remove_prefix(dot + 1);
  }
  const auto module = ParseLinearModule(rest);
  if (!module.ok()) return UnknownModule(name);
  key.module = *module;
  const bool wrong_block = !block.empty() && !ToString(key).ends_with(fmt::format("{}.{}", block, LinearModuleName(key.module)));
  if (wrong_block) return UnknownModule(name);
  return key;
}

bool IsTarget(const AdapterPlacement& placement, int64_t layer, LinearModule module) {
  const AdapterPattern& pattern = placement.pattern;
  if (std::find(placement.targets.begin(), placement.targets.end(), module) == placement.targets.end()) return false;
  if (!pattern.layers.empty()) return std::binary_search(pattern.layers.begin(), pattern.layers.end(), layer);
  const bool single = std::any_of(pattern.single.begin(), pattern.single.end(),
                                  [&](const ModuleKey& key) { return key.module == module; });
  return !single || std::binary_search(pattern.single.begin(), pattern.single.end(), ModuleKey{layer, module});
}

int64_t RankOf(const AdapterPlacement& placement, int64_t layer, LinearModule module) {
  return Lookup(placement.pattern.ranks, layer, module, placement.rank);
}

double AlphaOf(const AdapterPlacement& placement, int64_t layer, LinearModule module) {
  return Lookup(placement.pattern.alphas, layer, module, placement.alpha);
}

std::vector<AdaptedModule> AdaptedModules(const ModelConfig& base, const AdapterPlacement& placement) {
  std::vector<AdaptedModule> modules;
  for (int64_t layer = 0; layer < base.num_layers; ++layer) {
    for (const LinearModule module : kAllLinearModules) {
      if (!IsTarget(placement, layer, module)) continue;
      modules.push_back({.layer = layer,
                         .module = module,
                         .shape = LinearModuleShape(base, module),
                         .rank = RankOf(placement, layer, module),
                         .alpha = AlphaOf(placement, layer, module)});
    }
  }
  return modules;
}

Status CheckPattern(const ModelConfig& base, const AdapterPlacement& placement) {
  const AdapterPattern& pattern = placement.pattern;
  if (!pattern.layers.empty()) {
    SBORA_RETURN_IF_ERROR(
        CheckLayer(base, pattern.layers.back(), "target_layers", fmt::format("layer {}", pattern.layers.back())));
  }
  for (const ModuleKey& key : pattern.single) {
    SBORA_RETURN_IF_ERROR(CheckLayer(base, key.layer, "target_modules", ToString(key)));
  }
  SBORA_RETURN_IF_ERROR(CheckEntries(base, placement, pattern.ranks, "rank_pattern"));
  return CheckEntries(base, placement, pattern.alphas, "alpha_pattern");
}

StatusOr<std::vector<int64_t>> ParseLayers(const std::vector<std::string>& items) {
  std::set<int64_t> layers;
  for (const std::string& item : items) {
    const size_t dash = item.find('-');
    const auto first = ParseLayer(std::string_view(item).substr(0, dash));
    const auto last = dash == std::string::npos ? first : ParseLayer(std::string_view(item).substr(dash + 1));
    if (!first || !last || *first > *last) {
      const std::string what = fmt::format("\"{}\" is neither a layer from 0, such as 12, nor a range such as 0-7",
                                           std::string_view(item).substr(0, 40));
      return InvalidArgument("TARGET_LAYERS_MALFORMED", what).WithViolation("target_layers", what);
    }
    for (int64_t layer = *first; layer <= *last; ++layer) layers.insert(layer);
  }
  return std::vector<int64_t>(layers.begin(), layers.end());
}

std::vector<std::string> LayerItems(const std::vector<int64_t>& layers) {
  std::vector<std::string> items;
  for (size_t i = 0; i < layers.size();) {
    size_t end = i + 1;
    while (end < layers.size() && layers[end] == layers[end - 1] + 1) ++end;
    items.push_back(end - i == 1 ? std::to_string(layers[i]) : fmt::format("{}-{}", layers[i], layers[end - 1]));
    i = end;
  }
  return items;
}

}  // namespace sbora::core
