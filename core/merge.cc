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

}  // namespace

Status CheckMergeable(std::string_view name, const AdapterConfig& adapter) {
  if (adapter.base_quantization.kind == Quantization::kNone) return OkStatus();
  return Unimplemented("MERGE_QUANTIZED_BASE",
                       fmt::format("{} was trained on {} held as {}; added to the float weights it is another model. Use it on "
                                   "the quantised base",
                                   name, adapter.base_model, Describe(adapter.base_quantization)));
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

StatusOr<ExportedFolder> MergeAdapters(const fs::path& base_dir, std::vector<AdapterToMerge> adapters,
                                       const fs::path& out_dir, const MergeSeveralOptions& options) {
  std::sort(adapters.begin(), adapters.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  SBORA_RETURN_IF_ERROR(CheckAdapters(adapters));
  std::vector<AdapterFolder> folders;
  std::vector<RegionHolder> holders;
  for (const AdapterToMerge& adapter : adapters) {
    SBORA_ASSIGN_OR_RETURN(AdapterFolder folder, AdapterFolder::Open(adapter.dir));
    SBORA_RETURN_IF_ERROR(CheckMergeable(adapter.name, folder.config()));
    SBORA_ASSIGN_OR_RETURN(RegionSet regions, RegionsOf(folder));
    holders.push_back({adapter.name, std::move(regions)});
    folders.push_back(std::move(folder));
  }
  SBORA_RETURN_IF_ERROR(options.allow_overlap ? CheckOneBase(holders) : CheckMergesExactly(holders));
  SBORA_ASSIGN_OR_RETURN(const ModelFolder base, ModelFolder::Open(base_dir));
  SBORA_RETURN_IF_ERROR(CheckBase(base, folders.front().config(), options.merge));
  std::vector<WeightedAdapter> weighted;
  for (size_t i = 0; i < folders.size(); ++i) weighted.push_back({&folders[i], adapters[i].weight});
  return RewriteModel(base, EditsOf(weighted), out_dir, {options.merge.progress, options.merge.cancelled});
}

StatusOr<ExportedFolder> MergeAdapter(const fs::path& base_dir, const fs::path& adapter_dir, const fs::path& out_dir,
                                      const MergeOptions& options) {
  return MergeAdapters(base_dir, {{"the adapter", adapter_dir, 1.0}}, out_dir,
                       {.merge = options, .allow_overlap = false});
}

}  // namespace sbora::core
