/// Merging several adapters of one base into it (Multi-SBoRA), each with a weight of its own.
///
///     SBORA_ASSIGN_OR_RETURN(const auto folder, MergeAdapters(base, {{"a", dir_a, 1.0}, {"b", dir_b, 0.5}}, out, {}));
#pragma once

#include <filesystem>
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

/// The edits that MergeAdapters makes, without its checks: `adapters` in the order of addition, all of one base. They
/// borrow the adapters, which must outlive them.
struct WeightedAdapter {
  const AdapterFolder* adapter = nullptr;
  double weight = 1.0;
};
TensorEdits EditsOf(const std::vector<WeightedAdapter>& adapters);

}  // namespace sbora::core
