/// Patches of NF4 models: what an SBoRA adapter changes in one, before and after. patch.h says what a patch is for, and its
/// ApplyPatch and ReversePatch take these, too: base plus patch is MergeIntoNf4's folder, merged model minus patch is the
/// base again, byte for byte, with its manifest.
///
/// One file, sbora_patch.safetensors. Metadata as of a plain patch, but sbora_patch "2"; base_hash and patched_hash are
/// Nf4ModelFolder::ComputeHash before and after; base_merged says whether the base was a merged model itself. For each
/// module `<module>.patch_index` I32 [r], the rows or columns, and on each side (old, new) what is kept aside there:
/// `<module>.patch_old_row_index`, `_row_scales`, `_column_index`, `_columns` and the same with `new`, where there are any;
/// for rows also `<module>.patch_old_codes` and `.patch_new_codes` U8 [r, ceil(k / 2)].
#pragma once

#include <filesystem>

#include "common/status.h"
#include "core/nf4_merge.h"
#include "core/peft_export.h"

namespace sbora::core {

/// Writes the patch of one adapter into `out_dir`. `options.known_base_hash` is not used.
/// Errors: those of Nf4ModelFolder::Open, AdapterFolder::Open and CheckNf4Base; FAILED_PRECONDITION EXPORT_METHOD for
/// methods that change all weights, OUTPUT_NOT_EMPTY; CANCELLED.
StatusOr<ExportedFolder> ExportNf4Patch(const std::filesystem::path& nf4_dir, const std::filesystem::path& adapter_dir,
                                        const std::filesystem::path& out_dir, const Nf4Codec& codec,
                                        const MergeOptions& options = {});

/// True when `file` is a patch of an NF4 model, whole or not. Errors: those of SafetensorsFile::Open.
StatusOr<bool> IsNf4Patch(const std::filesystem::path& file);

/// What ApplyPatch and ReversePatch do with such a file. Errors: theirs.
StatusOr<ExportedFolder> ApplyNf4Patch(const std::filesystem::path& model_dir, const std::filesystem::path& file,
                                       const std::filesystem::path& out_dir, const MergeOptions& options);
StatusOr<ExportedFolder> ReverseNf4Patch(const std::filesystem::path& model_dir, const std::filesystem::path& file,
                                         const std::filesystem::path& out_dir, const MergeOptions& options);

}  // namespace sbora::core
