/// Merges and patches, into whatever form of the base the adapters were trained on. Torch-free.
#pragma once

#include <filesystem>
#include <vector>

#include "common/status.h"
#include "core/merge.h"
#include "core/peft_export.h"

namespace sbora::trainer {

/// Where a merge or patch finds the base.
struct MergeBase {
  std::filesystem::path model_dir;  ///< plain, or a merged NF4 model
  std::filesystem::path nf4_dir;    ///< the plain one in NF4; needed for adapters that were trained on it
  int threads = 1;
};

enum class MergeTarget { kAsTrained, kNf4, kFloat };

struct MergeRequest {
  MergeBase base;
  MergeTarget into = MergeTarget::kAsTrained;
  std::vector<core::AdapterToMerge> adapters;
  std::filesystem::path output_dir;
  core::MergeSeveralOptions options;
};

/// Errors: those of core::MergeAdapters, core::MergeIntoNf4 and core::MergeDequantized; FAILED_PRECONDITION
/// NF4_BASE_MISSING when an NF4 base is needed and not there.
StatusOr<core::ExportedFolder> Merge(MergeRequest request);

/// Errors: those of core::ExportPatch and core::ExportNf4Patch; NF4_BASE_MISSING.
StatusOr<core::ExportedFolder> WritePatch(const MergeBase& base, const std::filesystem::path& adapter_dir,
                                          const std::filesystem::path& output_dir, const core::MergeOptions& options);

}  // namespace sbora::trainer
