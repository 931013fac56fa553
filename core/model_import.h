/// Import of a base model: an HF folder, a GGUF file or a merge into NF4 (nf4_merge.h) becomes a normalised folder
///   config.json, tokenizer.json, tokenizer_config.json, model.safetensors
///   (or model-00001-of-0000N.safetensors + model.safetensors.index.json), chat_template.jinja when there is one.
///
/// A folder without tokenizer.json gets one out of its sentencepiece tokenizer.model (core/sentencepiece.h).
///
/// Never executed or read: pickles (.bin, .pt, .pth, .ckpt), TorchScript, archives.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/adapter.h"
#include "core/model_config.h"
#include "core/safetensors.h"

namespace sbora::core {

struct ImportOptions {
  int64_t max_shard_bytes = int64_t{2} << 30;
  /// Called on the importing thread after each tensor that was written, and again, with all of them done, after each that
  /// was hashed.
  std::function<void(int64_t tensors_done, int64_t tensors_total)> progress;
  /// Polled between tensors; true ends the import with CANCELLED.
  std::function<bool()> cancelled;
};

struct ImportedModel {
  ModelConfig config;
  std::vector<WrittenFile> files;  ///< all files of the folder, ascending by name
  std::string base_hash;           ///< as ModelFolder::ComputeBaseHash; Nf4ModelFolder::ComputeHash of a merge into NF4
  BaseQuantization held_as = {};   ///< by the written files
  bool has_chat_template = false;
  int64_t parameter_count = 0;
  int64_t total_bytes = 0;
};

/// Reads `source` (folder or .gguf file) and fills `out_dir`, which is created and must be empty. On error out_dir may
/// hold partial files; the caller removes it.
/// Errors: NOT_FOUND SOURCE_NOT_FOUND, MODEL_FILE_MISSING; INVALID_ARGUMENT PICKLE_REFUSED, SOURCE_UNKNOWN_FORMAT and
/// those of the readers, NF4_BASE_IMPORT for a base in NF4 without adapters; UNIMPLEMENTED TOKENIZER_UNSUPPORTED, GGML_TYPE_UNSUPPORTED; FAILED_PRECONDITION
/// OUTPUT_NOT_EMPTY; RESOURCE_EXHAUSTED when the disk is full; CANCELLED.
StatusOr<ImportedModel> ImportModel(const std::filesystem::path& source, const std::filesystem::path& out_dir,
                                    const ImportOptions& options = {});

}  // namespace sbora::core
