#include "core/nf4_merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "common/status_macros.h"
#include "core/adapter_delta.h"
#include "core/model_rewrite.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

size_t BlocksOfRow(const ModuleShape& shape) {
  return static_cast<size_t>((shape.in_features + kNf4BlockElements - 1) / kNf4BlockElements);
}

std::vector<int32_t> Union(const std::vector<int32_t>& first, const std::vector<int32_t>& second) {
  std::vector<int32_t> all;
  std::set_union(first.begin(), first.end(), second.begin(), second.end(), std::back_inserter(all));
  return all;
}

/// What the adapters do to one linear weight.
struct ModuleMerge {
  ModuleShape shape;
  std::vector<AdapterDelta> deltas;
  std::vector<int32_t> rows;     ///< of FB
  std::vector<int32_t> columns;  ///< of FA

  /// values [d, k] += the deltas.
  void AddTo(std::vector<float>& values) const {
    const auto k = static_cast<size_t>(shape.in_features);
    std::vector<float> base_I(k);
    for (size_t row = 0; row < static_cast<size_t>(shape.out_features); ++row) {
      const std::span<float> sum_I(values.data() + row * k, k);
      std::copy(sum_I.begin(), sum_I.end(), base_I.begin());
      bool first = true;
      for (const AdapterDelta& delta : deltas) {
        if (!delta.TouchesRow(row)) continue;
        delta.AddRow(row, base_I, first, sum_I);
        first = false;
      }
    }
  }
};

/// Loads the deltas of every adapted module, in the order of `adapters`.
StatusOr<std::map<std::string, ModuleMerge>> MergesOf(const std::vector<WeightedAdapter>& adapters) {
  std::map<std::string, ModuleMerge> merges;
  for (const auto& [adapter, weight] : adapters) {
    const AdapterConfig& config = adapter->config();
    for (const AdaptedModule& each : config.Modules()) {
      ModuleMerge& merge = merges[ModulePath(each.layer, each.module)];
      merge.shape = each.shape;
      SBORA_ASSIGN_OR_RETURN(AdapterDelta delta, AdapterDelta::Load(*adapter, each.layer, each.module, weight));
      merge.deltas.push_back(std::move(delta));
      if (!UsesIndices(config.method)) continue;
      SBORA_ASSIGN_OR_RETURN(const auto indices, adapter->Indices(each.layer, each.module));
      auto& touched = config.method == AdapterMethod::kSboraFa ? merge.columns : merge.rows;
      touched = Union(touched, indices);
    }
  }
  return merges;
}

/// Quantises row `row` of `values` anew and puts codes and scales into `parts`.
Status QuantizeRow(const std::vector<float>& values, const ModuleShape& shape, int64_t row, const Nf4Codec& codec,
                   std::span<float> row_scales, Nf4Parts& parts) {
  const auto k = static_cast<size_t>(shape.in_features);
  auto quantized = codec.quantize(std::span<const float>(values).subspan(static_cast<size_t>(row) * k, k));
  if (!quantized.ok()) return quantized.status().WithContext(fmt::format("quantising row {}", row));
  SetNf4RowCodes(quantized->codes, shape, row, parts);
  std::copy(quantized->scales.begin(), quantized->scales.end(), row_scales.begin());
  return OkStatus();
}

/// The rows of `after`, with the scales of those that were there before.
std::vector<float> RowScales(const Nf4Parts& before, const std::vector<int32_t>& after, size_t blocks) {
  std::vector<float> scales(after.size() * blocks, 0.0f);
  for (size_t i = 0; i < before.row_index.size(); ++i) {
    const auto at = static_cast<size_t>(std::lower_bound(after.begin(), after.end(), before.row_index[i]) - after.begin());
    std::copy_n(before.row_scales.begin() + static_cast<std::ptrdiff_t>(i * blocks), blocks,
                scales.begin() + static_cast<std::ptrdiff_t>(at * blocks));
  }
  return scales;
}

StatusOr<Nf4Parts> MergeInto(Nf4Parts parts, const ModuleMerge& merge, const Nf4Codec& codec) {
  const auto d = static_cast<size_t>(merge.shape.out_features);
  const auto k = static_cast<size_t>(merge.shape.in_features);
  SBORA_ASSIGN_OR_RETURN(std::vector<float> values, Nf4Values(parts, merge.shape, codec));
  merge.AddTo(values);
  const std::vector<int32_t> rows = Union(parts.row_index, merge.rows);
  const size_t blocks = BlocksOfRow(merge.shape);
  std::vector<float> row_scales = RowScales(parts, rows, blocks);
  for (const int32_t row : merge.rows) {
    const auto at = static_cast<size_t>(std::lower_bound(rows.begin(), rows.end(), row) - rows.begin());
    SBORA_RETURN_IF_ERROR(QuantizeRow(values, merge.shape, row, codec,
                                      std::span<float>(row_scales).subspan(at * blocks, blocks), parts));
  }
  parts.row_index = rows;
  parts.row_scales = std::move(row_scales);
  // All columns anew: a row that changed crosses those that were there before.
  parts.column_index = Union(parts.column_index, merge.columns);
  parts.columns.resize(d * parts.column_index.size());
  for (size_t row = 0; row < d; ++row) {
    for (size_t c = 0; c < parts.column_index.size(); ++c) {
      parts.columns[row * parts.column_index.size() + c] = values[row * k + static_cast<size_t>(parts.column_index[c])];
    }
  }
  return parts;
}

StatusOr<OpenedAdapters> OpenForNf4(std::vector<AdapterToMerge>& adapters, const Nf4ModelFolder& base, bool any_method,
                                    bool allow_overlap) {
  const auto check = [&](std::string_view name, const AdapterConfig& config) -> Status {
    const bool dense = config.method == AdapterMethod::kLora || config.method == AdapterMethod::kDora;
    if (!any_method || !dense) SBORA_RETURN_IF_ERROR(CheckMergeableIntoNf4(name, config));
    const Status fits = CheckNf4Base(base, config);
    return fits.ok() ? fits : fits.WithContext(std::string(name));
  };
  return OpenAdapters(adapters, allow_overlap, check);
}

}  // namespace

StatusOr<std::vector<float>> Nf4Values(const Nf4Parts& parts, const ModuleShape& shape, const Nf4Codec& codec) {
  const auto k = static_cast<size_t>(shape.in_features);
  SBORA_ASSIGN_OR_RETURN(std::vector<float> values, codec.dequantize(parts, shape.out_features * shape.in_features));
  const auto blocks = static_cast<std::ptrdiff_t>(BlocksOfRow(shape));
  for (size_t i = 0; i < parts.row_index.size(); ++i) {
    const auto scales = parts.row_scales.begin() + static_cast<std::ptrdiff_t>(i) * blocks;
    const Nf4Parts row{.codes = Nf4RowCodes(parts, shape, parts.row_index[i]), .scales = {scales, scales + blocks}};
    SBORA_ASSIGN_OR_RETURN(const std::vector<float> row_I, codec.dequantize(row, shape.in_features));
    std::copy(row_I.begin(), row_I.end(), values.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(parts.row_index[i]) * k));
  }
  const size_t columns = parts.column_index.size();
  for (size_t at = 0; at < parts.columns.size(); ++at) {
    values[at / columns * k + static_cast<size_t>(parts.column_index[at % columns])] = parts.columns[at];
  }
  return values;
}

Status CheckMergeableIntoNf4(std::string_view name, const AdapterConfig& adapter) {
  if (adapter.base_quantization.kind != Quantization::kNf4) {
    return FailedPrecondition("ADAPTER_NOT_NF4",
                              fmt::format("{} was trained on the float weights of {}; merge it into those, or train it with "
                                          "quantization nf4",
                                          name, adapter.base_model));
  }
  if (UsesIndices(adapter.method)) return OkStatus();
  return FailedPrecondition("MERGE_DENSE_NF4",
                            fmt::format("{} is a {} adapter, which changes every weight of its targets: in NF4 all of their "
                                        "blocks would be rounded anew. Merge it into float weights instead (adapters merge "
                                        "--into float): the de-quantised base plus the adapter, as it was trained",
                                        name, AdapterMethodName(adapter.method)));
}

Status CheckNf4Base(const Nf4ModelFolder& base, const AdapterConfig& adapter) {
  const Nf4Config& config = base.config();
  if (adapter.base_hash != config.identity()) {
    return FailedPrecondition("BASE_HASH_MISMATCH",
                              fmt::format("the adapter was trained on base {} ({}), {} is base {}", adapter.base_hash,
                                          adapter.base_model, base.dir().string(), config.identity()))
        .WithMetadata("expected", adapter.base_hash)
        .WithMetadata("found", config.identity());
  }
  if (adapter.base_quantization == config.held_as()) return OkStatus();
  return FailedPrecondition("NF4_BASE_MISMATCH", fmt::format("the adapter was trained on its base held as {}, {} is {}",
                                                             Describe(adapter.base_quantization), base.dir().string(),
                                                             Describe(config.held_as())));
}

StatusOr<Nf4Edits> Nf4EditsOf(const Nf4ModelFolder& model, const std::vector<WeightedAdapter>& adapters,
                              const Nf4Codec& codec) {
  SBORA_ASSIGN_OR_RETURN(auto merges, MergesOf(adapters));
  Nf4Edits edits;
  for (const WeightedAdapter& weighted : adapters) {
    for (const AdaptedModule& each : weighted.adapter->config().Modules()) {
      const auto found = merges.find(ModulePath(each.layer, each.module));
      if (found == merges.end()) continue;  // taken by an earlier adapter
      SBORA_ASSIGN_OR_RETURN(const Nf4Parts now, model.Weight(each.layer, each.module));
      auto merge = std::make_shared<const ModuleMerge>(std::move(found->second));
      Nf4Edit& edit = edits[found->first];
      edit.row_index = Union(now.row_index, merge->rows);
      edit.column_index = Union(now.column_index, merge->columns);
      edit.apply = [merge, &codec](Nf4Parts parts) { return MergeInto(std::move(parts), *merge, codec); };
      merges.erase(found);
    }
  }
  return edits;
}

StatusOr<ExportedFolder> MergeIntoNf4(const Nf4Place& base, std::vector<AdapterToMerge> adapters, const fs::path& out_dir,
                                      const Nf4Codec& codec, const MergeSeveralOptions& options) {
  const auto alive = [&] {
    if (options.merge.progress) options.merge.progress(0, 1);
  };
  SBORA_ASSIGN_OR_RETURN(const Nf4ModelFolder model, Nf4ModelFolder::Open(base.nf4_dir, alive));
  SBORA_ASSIGN_OR_RETURN(const OpenedAdapters opened, OpenForNf4(adapters, model, false, options.allow_overlap));
  SBORA_ASSIGN_OR_RETURN(const Nf4Edits edits, Nf4EditsOf(model, opened.Weighted(), codec));
  Nf4Config result = model.config();
  result.merged_hash = kHashToCome;
  return RewriteNf4Model(model, edits, std::move(result), base.text_dir, out_dir,
                         {options.merge.progress, options.merge.cancelled});
}

StatusOr<ExportedFolder> MergeDequantized(const fs::path& nf4_dir, const fs::path& model_dir,
                                          std::vector<AdapterToMerge> adapters, const fs::path& out_dir,
                                          const Nf4Codec& codec, const MergeSeveralOptions& options) {
  const auto alive = [&] {
    if (options.merge.progress) options.merge.progress(0, 1);
  };
  SBORA_ASSIGN_OR_RETURN(const Nf4ModelFolder nf4, Nf4ModelFolder::Open(nf4_dir, alive));
  if (nf4.config().merged()) {
    return InvalidArgument("NF4_MERGED_BASE", fmt::format("{} is itself an NF4 model with adapters merged in, which has no "
                                                          "float form; merge into NF4", nf4_dir.string()));
  }
  SBORA_ASSIGN_OR_RETURN(const OpenedAdapters opened, OpenForNf4(adapters, nf4, true, options.allow_overlap));
  SBORA_ASSIGN_OR_RETURN(const ModelFolder base, ModelFolder::Open(model_dir));
  SBORA_RETURN_IF_ERROR(CheckBase(base, opened.folders.front().config(), options.merge));
  SBORA_ASSIGN_OR_RETURN(const auto merges, MergesOf(opened.Weighted()));
  TensorEdits edits;
  for (int64_t layer = 0; layer < base.config().num_layers; ++layer) {
    for (const LinearModule module : kAllLinearModules) {
      const std::string path = ModulePath(layer, module);
      edits[path + ".weight"] = [&, layer, module, path](const TensorView& view, std::span<std::byte> out) -> Status {
        SBORA_ASSIGN_OR_RETURN(const Nf4Parts parts, nf4.Weight(layer, module));
        SBORA_ASSIGN_OR_RETURN(auto values, Nf4Values(parts, {view.shape[0], view.shape[1]}, codec));
        if (const auto merge = merges.find(path); merge != merges.end()) merge->second.AddTo(values);
        return FromFloat(values, view.dtype, out);
      };
    }
  }
  return RewriteModel(base, edits, out_dir, {options.merge.progress, options.merge.cancelled});
}

}  // namespace sbora::core
