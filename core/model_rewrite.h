/// A copy of a model with some of its weights changed, streamed tensor by tensor: what merges and patches are made of.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/model_folder.h"
#include "core/peft_export.h"
#include "core/safetensors.h"

namespace sbora::core {

/// Changes a tensor: `bytes` starts as a copy of `view.data` and becomes what is written. Must give the same bytes each
/// time it is called.
using TensorEdit = std::function<Status(const TensorView& view, std::span<std::byte> bytes)>;
/// By full tensor name ("model.layers.0.self_attn.q_proj.weight").
using TensorEdits = std::map<std::string, TensorEdit>;

/// Called after each tensor (with 0 done after each that is only hashed), and asked before it.
struct RewriteProgress {
  std::function<void(int64_t tensors_done, int64_t tensors_total)> progress;
  std::function<bool()> cancelled;
};

/// Writes `model` into `out_dir` (made when missing) with the edited tensors: the same shards, metadata, config and
/// tokenizer files; all bytes no edit changes are the same. Holds one tensor in memory.
/// Errors: FAILED_PRECONDITION OUTPUT_NOT_EMPTY, those of the edits, CANCELLED.
StatusOr<ExportedFolder> RewriteModel(const ModelFolder& model, const TensorEdits& edits,
                                      const std::filesystem::path& out_dir, const RewriteProgress& options);

/// Copies what a model has beside config and weights (tokenizer, chat template, generation defaults), as far as it is
/// there. Errors: of the file system.
StatusOr<std::vector<WrittenFile>> CopyTextFiles(const std::filesystem::path& from, const std::filesystem::path& to);

/// Identity of the weights without and with the edits, in one reading.
struct WeightHashes {
  std::string before;
  std::string after;
};
/// Errors: those of the edits, CANCELLED.
StatusOr<WeightHashes> HashBeforeAndAfter(const ModelFolder& model, const TensorEdits& edits,
                                          const RewriteProgress& options);

}  // namespace sbora::core
