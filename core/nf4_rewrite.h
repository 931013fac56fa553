/// A copy of an NF4 model with some of its linear weights changed, streamed weight by weight: what merges into NF4 and
/// their patches are made of. model_rewrite.h does the same for plain models.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/model_rewrite.h"
#include "core/nf4_model.h"
#include "core/peft_export.h"

namespace sbora::core {

/// Changes one linear weight. Codes of other rows and all scales must stay: only then do untouched blocks keep their bits.
struct Nf4Edit {
  std::vector<int32_t> row_index;     ///< of the result; ascending
  std::vector<int32_t> column_index;  ///< of the result; ascending
  /// Must give the same each time it is called.
  std::function<StatusOr<Nf4Parts>(Nf4Parts before)> apply;
};
/// By ModulePath ("model.layers.0.self_attn.q_proj").
using Nf4Edits = std::map<std::string, Nf4Edit>;

/// Writes `model` into `out_dir` (made when missing) with the edited weights: the same shards, all bytes no edit changes
/// the same. `result.merged()` says whether it becomes a merged model, whose own hash is computed from what was written,
/// or a base, with its manifest. `text_dir`: whose tokenizer files are copied. Holds one weight in memory.
/// Errors: FAILED_PRECONDITION OUTPUT_NOT_EMPTY, those of the edits, CANCELLED.
StatusOr<ExportedFolder> RewriteNf4Model(const Nf4ModelFolder& model, const Nf4Edits& edits, Nf4Config result,
                                         const std::filesystem::path& text_dir, const std::filesystem::path& out_dir,
                                         const RewriteProgress& options);

/// Nf4ModelFolder::ComputeHash without and with the edits, in one reading. Errors: those of the edits, CANCELLED.
StatusOr<WeightHashes> HashBeforeAndAfter(const Nf4ModelFolder& model, const Nf4Edits& edits,
                                          const RewriteProgress& options);

/// Stands in Nf4Config::merged_hash until the hash is known.
inline constexpr const char* kHashToCome = "to come";

}  // namespace sbora::core
