#include "core/merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "common/status_macros.h"
#include "core/region.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

/// One module of one adapter.
struct Part {
  const AdapterFolder* adapter = nullptr;
  double weight = 1.0;
  int64_t layer = 0;
  LinearModule module = LinearModule::kQ;
};

Status AddParts(const std::vector<Part>& parts, const TensorView& base, std::span<std::byte> out) {
  std::vector<AdapterDelta> deltas;
  for (const Part& part : parts) {
    SBORA_ASSIGN_OR_RETURN(AdapterDelta delta, AdapterDelta::Load(*part.adapter, part.layer, part.module, part.weight));
    deltas.push_back(std::move(delta));
  }
  return AddDeltas(deltas, base, out);
}

Status CheckAdapters(const std::vector<AdapterToMerge>& adapters) {
  if (adapters.empty()) return InvalidArgument("ADAPTERS_EMPTY", "no adapter is named; name at least one");
  for (size_t i = 0; i < adapters.size(); ++i) {
    if (i > 0 && adapters[i].name == adapters[i - 1].name) {
      return InvalidArgument("ADAPTER_DUPLICATE",
                             fmt::format("{} is named twice; give it one weight instead", adapters[i].name));
    }
    if (std::isfinite(adapters[i].weight)) continue;
    return InvalidArgument("WEIGHT_NOT_FINITE", fmt::format("the weight of {} is {}; it must be finite",
                                                            adapters[i].name, adapters[i].weight));
  }
  return OkStatus();
}

}  // namespace

Status CheckMergeable(std::string_view name, const AdapterConfig& adapter) {
  if (adapter.base_quantization.kind == Quantization::kNone) return OkStatus();
  return Unimplemented("MERGE_QUANTIZED_BASE",
                       fmt::format("{} was trained on {} held as {}; added to the original weights it is another model. Merge "
                                   "it into the base as it was held, or into its de-quantised form (adapters merge, --into "
                                   "float)",
                                   name, adapter.base_model, Describe(adapter.base_quantization)));
}

Status CheckBase(const ModelFolder& base, const AdapterConfig& adapter, const MergeOptions& options) {
  const auto alive = [&] {
    if (options.progress) options.progress(0, static_cast<int64_t>(base.tensor_names().size()));
  };
  const std::string hash = options.known_base_hash.empty() ? base.ComputeBaseHash(alive) : options.known_base_hash;
  if (hash == adapter.base_hash) return OkStatus();
  return FailedPrecondition("BASE_HASH_MISMATCH",
                            fmt::format("the adapter was trained on base {} ({}), {} is base {}", adapter.base_hash,
                                        adapter.base_model, base.dir().string(), hash))
      .WithMetadata("expected", adapter.base_hash)
      .WithMetadata("found", hash);
}

TensorEdits EditsOf(const std::vector<WeightedAdapter>& adapters) {
  std::map<std::string, std::vector<Part>> parts;
  for (const auto& [adapter, weight] : adapters) {
    for (const AdaptedModule& each : adapter->config().Modules()) {
      parts[ModulePath(each.layer, each.module) + ".weight"].push_back({adapter, weight, each.layer, each.module});
    }
  }
  TensorEdits edits;
  for (auto& [name, of_module] : parts) {
    edits[name] = [of_module = std::move(of_module)](const TensorView& base, std::span<std::byte> out) {
      return AddParts(of_module, base, out);
    };
  }
  return edits;
}

std::vector<WeightedAdapter> OpenedAdapters::Weighted() const {
  std::vector<WeightedAdapter> weighted;
  for (size_t i = 0; i < folders.size(); ++i) weighted.push_back({&folders[i], weights[i]});
  return weighted;
}

StatusOr<OpenedAdapters> OpenAdapters(std::vector<AdapterToMerge>& adapters, bool allow_overlap,
                                      const std::function<Status(std::string_view name, const AdapterConfig&)>& check) {
  std::sort(adapters.begin(), adapters.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  SBORA_RETURN_IF_ERROR(CheckAdapters(adapters));
  OpenedAdapters opened;
  std::vector<RegionHolder> holders;
  for (const AdapterToMerge& adapter : adapters) {
    SBORA_ASSIGN_OR_RETURN(AdapterFolder folder, AdapterFolder::Open(adapter.dir));
    SBORA_RETURN_IF_ERROR(check(adapter.name, folder.config()));
    SBORA_ASSIGN_OR_RETURN(RegionSet regions, RegionsOf(folder));
    holders.push_back({adapter.name, std::move(regions)});
    opened.folders.push_back(std::move(folder));
    opened.weights.push_back(adapter.weight);
    const BaseQuantization& first = opened.folders.front().config().base_quantization;
    const BaseQuantization& held = opened.folders.back().config().base_quantization;
    if (held == first) continue;
    return FailedPrecondition("BASES_DIFFER", fmt::format("{} was trained on its base held as {}, {} as {}; only adapters of "
                                                          "one form of a base can be merged",
                                                          adapters.front().name, Describe(first), adapter.name, Describe(held)))
        .WithMetadata("first", adapters.front().name)
        .WithMetadata("second", adapter.name);
  }
  SBORA_RETURN_IF_ERROR(allow_overlap ? CheckOneBase(holders) : CheckMergesExactly(holders));
  return opened;
}

StatusOr<ExportedFolder> MergeAdapters(const fs::path& base_dir, std::vector<AdapterToMerge> adapters,
                                       const fs::path& out_dir, const MergeSeveralOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const OpenedAdapters opened, OpenAdapters(adapters, options.allow_overlap, CheckMergeable));
  SBORA_ASSIGN_OR_RETURN(const ModelFolder base, ModelFolder::Open(base_dir));
  SBORA_RETURN_IF_ERROR(CheckBase(base, opened.folders.front().config(), options.merge));
  return RewriteModel(base, EditsOf(opened.Weighted()), out_dir, {options.merge.progress, options.merge.cancelled});
}

StatusOr<ExportedFolder> MergeAdapter(const fs::path& base_dir, const fs::path& adapter_dir, const fs::path& out_dir,
                                      const MergeOptions& options) {
  return MergeAdapters(base_dir, {{"the adapter", adapter_dir, 1.0}}, out_dir,
                       {.merge = options, .allow_overlap = false});
}

}  // namespace sbora::core
