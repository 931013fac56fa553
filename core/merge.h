/// Merging several adapters of one base into it (Multi-SBoRA), each with a weight of its own.
///
///     SBORA_ASSIGN_OR_RETURN(const auto folder, MergeAdapters(base, {{"a", dir_a, 1.0}, {"b", dir_b, 0.5}}, out, {}));
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/adapter_delta.h"
#include "core/model_rewrite.h"
#include "core/peft_export.h"

namespace sbora::core {

struct AdapterToMerge {
  std::string name;  ///< distinct; the order of names is the order of sums where regions overlap
  std::filesystem::path dir;
  double weight = 1.0;  ///< lambda, finite: scales what the adapter adds
};

struct MergeSeveralOptions {
  MergeOptions merge;
  /// Adds up overlapping and dense adapters instead of refusing them.
  bool allow_overlap = false;
};

/// What may be added to float weights. `name` is for messages. Errors: UNIMPLEMENTED MERGE_QUANTIZED_BASE for an adapter
/// of a quantised base.
Status CheckMergeable(std::string_view name, const AdapterConfig& adapter);

/// Writes W0 + sum of weight * delta. Where the regions are disjoint the result is exact: the same bits whatever the
/// order of `adapters`, and each adapter's rows or columns as in a merge of it alone with that weight. Where they
/// overlap (allowed only on request) the sums are float32 in the order of names, rounded once, so that the result does
/// not depend on the order given either. One adapter at weight 1 gives MergeAdapter's bits. Errors: those of
/// MergeAdapter; INVALID_ARGUMENT ADAPTERS_EMPTY, ADAPTER_DUPLICATE, WEIGHT_NOT_FINITE; FAILED_PRECONDITION
/// BASES_DIFFER, REGIONS_OVERLAP (core/region.h), BASE_HASH_MISMATCH.
StatusOr<ExportedFolder> MergeAdapters(const std::filesystem::path& base_dir, std::vector<AdapterToMerge> adapters,
                                       const std::filesystem::path& out_dir, const MergeSeveralOptions& options);

/// That the model is the one `adapter` was trained on; hashes it unless the options know its hash. Errors:
/// FAILED_PRECONDITION BASE_HASH_MISMATCH naming both hashes.
Status CheckBase(const ModelFolder& base, const AdapterConfig& adapter, const MergeOptions& options);

/// The edits that MergeAdapters makes, without its checks: `adapters` in the order of addition, all of one base. They
/// borrow the adapters, which must outlive them.
struct WeightedAdapter {
  const AdapterFolder* adapter = nullptr;
  double weight = 1.0;
};
TensorEdits EditsOf(const std::vector<WeightedAdapter>& adapters);

/// The adapters of a merge, opened and checked, ascending by name.
struct OpenedAdapters {
  std::vector<AdapterFolder> folders;
  std::vector<double> weights;

  /// Borrows the folders.
  std::vector<WeightedAdapter> Weighted() const;
};
/// Sorts `adapters` by name; `check` judges each alone. Errors: those of `check` and AdapterFolder::Open; INVALID_ARGUMENT
/// ADAPTERS_EMPTY, ADAPTER_DUPLICATE, WEIGHT_NOT_FINITE; FAILED_PRECONDITION BASES_DIFFER, also for one base held in two
/// ways, REGIONS_OVERLAP.
StatusOr<OpenedAdapters> OpenAdapters(std::vector<AdapterToMerge>& adapters, bool allow_overlap,
                                      const std::function<Status(std::string_view name, const AdapterConfig&)>& check);

}  // namespace sbora::core
