/// Which files of a local checkpoint a model import takes.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "client/sbora_client.h"
#include "common/status.h"

namespace sbora::client {

struct ModelFiles {
  std::vector<LocalFile> files;
  /// Files of the folder that are left behind and worth a word (pickles beside safetensors).
  std::vector<std::string> skipped;
};

/// `path` is one .gguf file, or an HF folder: config.json, tokenizer*.json (tokenizer.model where there is no
/// tokenizer.json) and what goes with them, the chat template, and the safetensors that the index names (all of the
/// folder's without one). Nothing is read but names and the index.
/// Errors: NotFound PATH_NOT_FOUND; InvalidArgument PICKLE_REFUSED naming the files, MODEL_FILE_MISSING naming what an
/// HF folder lacks, NOT_A_MODEL, INDEX_MALFORMED.
StatusOr<ModelFiles> PickModelFiles(const std::filesystem::path& path);

}  // namespace sbora::client
