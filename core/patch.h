/// Patches: only the rows or columns that an SBoRA adapter changes, with their values before and after. Applying one to
/// the base gives the merged model; reversing it gives the base back, bit for bit, in any dtype: values are
/// overwritten, never subtracted.
///
/// A patch is one file, sbora_patch.safetensors. Metadata: sbora_patch ("1"), axis ("input": columns, "output": rows),
/// base_hash, patched_hash (ModelFolder::ComputeBaseHash before and after), method, base_model. For each module
/// `<module>.patch_index` I32 [r], `<module>.patch_new` and `<module>.patch_old`, both [d, r] for columns and [r, k]
/// for rows, in the dtype of the base.
///
///     SBORA_ASSIGN_OR_RETURN(auto written, ExportPatch(base, adapter, patch_dir, {}));
///     SBORA_ASSIGN_OR_RETURN(auto merged, ApplyPatch(base, patch_dir, merged_dir, {}));
///     SBORA_ASSIGN_OR_RETURN(auto restored, ReversePatch(merged_dir, patch_dir, base_again, {}));
///
/// All three stream tensor by tensor and read the weights twice: once to check the hashes, once to write.
#pragma once

#include <filesystem>
#include <string_view>

#include "common/status.h"
#include "core/adapter.h"
#include "core/peft_export.h"

namespace sbora::core {

inline constexpr std::string_view kPatchFile = "sbora_patch.safetensors";

/// Writes the patch of one adapter into `out_dir`. `options.known_base_hash` is not used: the hashes are computed.
/// Errors: those of AdapterFolder::Open and ModelFolder::Open; those of CheckMergeable; FAILED_PRECONDITION EXPORT_METHOD for
/// methods that change all weights, BASE_HASH_MISMATCH, OUTPUT_NOT_EMPTY; CANCELLED.
StatusOr<ExportedFolder> ExportPatch(const std::filesystem::path& base_dir, const std::filesystem::path& adapter_dir,
                                     const std::filesystem::path& out_dir, const MergeOptions& options = {});

/// FAILED_PRECONDITION EXPORT_METHOD: a method that changes every weight has no patch.
Status NoPatchOf(AdapterMethod method);

/// Writes base plus patch. `patch` is the file or the folder that holds it; of a plain model or of one in NF4
/// (nf4_patch.h).
/// Errors: NOT_FOUND PATCH_FILE_MISSING; INVALID_ARGUMENT PATCH_MALFORMED; FAILED_PRECONDITION BASE_HASH_MISMATCH when
/// the model is not the patch's base, OUTPUT_NOT_EMPTY; DATA_LOSS PATCH_CORRUPT when the result would not have the hash
/// the patch promises; CANCELLED. Nothing is written before both hashes are right.
StatusOr<ExportedFolder> ApplyPatch(const std::filesystem::path& model_dir, const std::filesystem::path& patch,
                                    const std::filesystem::path& out_dir, const MergeOptions& options = {});

/// Writes the base back from base plus patch. Errors: as ApplyPatch, with FAILED_PRECONDITION PATCH_NOT_APPLIED when
/// the model is not base plus this patch.
StatusOr<ExportedFolder> ReversePatch(const std::filesystem::path& model_dir, const std::filesystem::path& patch,
                                      const std::filesystem::path& out_dir, const MergeOptions& options = {});

}  // namespace sbora::core
