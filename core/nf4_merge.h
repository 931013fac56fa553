/// Merging adapters that were trained on an NF4 base: into that base, whose untouched blocks keep every bit, or into float
/// weights, de-quantised.
///
///     SBORA_ASSIGN_OR_RETURN(const auto folder, MergeIntoNf4({nf4_dir, model_dir}, {{"a", dir_a, 1.0}}, out, codec, {}));
///
/// With W the de-quantised weight [d, k] (method.md, "Merge"):
///   FA  columns idx of W + s B are kept beside the codes in float32; codes and scales stay as they are. Exact.
///   FB  rows idx of W + s A are quantised anew, in blocks of 64 that begin with the row, whose float32 scales are kept
///       beside the others; with double quantisation the original scales, their map and offset stay as they are. Each new
///       value lies within half a step between NormalFloat values: at most 0.152 of its block's largest magnitude.
///   LoRA and DoRA change every weight, so all blocks would be rounded anew: refused.
/// docs/adr/0009-nf4-merge.md says why.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/merge.h"
#include "core/nf4_model.h"
#include "core/nf4_rewrite.h"

namespace sbora::core {

/// The kernels, which core has not.
struct Nf4Codec {
  /// `elements` values in float32 out of the codes and scales (of either kind) of `parts`; its rows and columns are not
  /// looked at.
  std::function<StatusOr<std::vector<float>>(const Nf4Parts& parts, int64_t elements)> dequantize;
  /// Codes and plain scales of a sequence of its own.
  std::function<StatusOr<Nf4Parts>(std::span<const float> values)> quantize;
};

/// [d, k]: the weight as layers see it, with the rows and columns that are kept aside. Errors: those of the codec.
StatusOr<std::vector<float>> Nf4Values(const Nf4Parts& parts, const ModuleShape& shape, const Nf4Codec& codec);

/// Where an NF4 model and its tokenizer lie.
struct Nf4Place {
  std::filesystem::path nf4_dir;
  std::filesystem::path text_dir;  ///< the plain base, or nf4_dir itself when it is a merged model
};

/// `name` is for messages. Errors: FAILED_PRECONDITION MERGE_DENSE_NF4 for LoRA and DoRA, ADAPTER_NOT_NF4 for an adapter
/// of a plain base. REQUIRED: the method is not kFull, whose checkpoint AdapterFolder::Open refuses.
Status CheckMergeableIntoNf4(std::string_view name, const AdapterConfig& adapter);
/// That `adapter` was trained on this very model. Errors: FAILED_PRECONDITION BASE_HASH_MISMATCH naming both hashes,
/// NF4_BASE_MISMATCH for the other kind of scales.
Status CheckNf4Base(const Nf4ModelFolder& base, const AdapterConfig& adapter);

/// Writes a merged NF4 model, whole with tokenizer. Several adapters, their order and weights: as MergeAdapters. Where
/// overlap is allowed and FA crosses FB, the columns hold the sum of both.
/// Errors: those of Nf4ModelFolder::Open, CheckMergeableIntoNf4 and CheckNf4Base; those of MergeAdapters but for its base's.
StatusOr<ExportedFolder> MergeIntoNf4(const Nf4Place& base, std::vector<AdapterToMerge> adapters,
                                      const std::filesystem::path& out_dir, const Nf4Codec& codec,
                                      const MergeSeveralOptions& options);

/// Writes a plain checkpoint: all linear weights de-quantised, plus the adapters, summed in float32 and rounded once to
/// the dtype of the plain base in `model_dir`, from which everything else is copied. What the training saw, for methods
/// of every kind; 4 bits are not kept. REQUIRED: nf4_dir is a base (not a merged model) of that plain base.
/// Errors: as MergeIntoNf4 without MERGE_DENSE_NF4; those of ModelFolder::Open; INVALID_ARGUMENT NF4_MERGED_BASE when the
/// model has no plain form.
StatusOr<ExportedFolder> MergeDequantized(const std::filesystem::path& nf4_dir, const std::filesystem::path& model_dir,
                                          std::vector<AdapterToMerge> adapters, const std::filesystem::path& out_dir,
                                          const Nf4Codec& codec, const MergeSeveralOptions& options);

/// The edits of MergeIntoNf4, without its checks. They borrow `model`, the adapters and the codec.
StatusOr<Nf4Edits> Nf4EditsOf(const Nf4ModelFolder& model, const std::vector<WeightedAdapter>& adapters,
                              const Nf4Codec& codec);

}  // namespace sbora::core
