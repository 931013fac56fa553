/// What full fine-tuning leaves in an adapter's place: a Hugging Face checkpoint of the trained weights in float32.
///
/// A folder: model.safetensors, or shards with their index; config.json; the base's tokenizer files; and
/// sbora_config.json (kFullConfigFile), which says on what and how it was trained with the fields of
/// adapter_config.json. It has another name than that because PEFT and transformers take a folder with
/// adapter_config.json for an adapter. Everything else that reads a model folder reads this one.
#pragma once

#include <filesystem>

#include "common/status.h"
#include "core/adapter.h"
#include "core/model_folder.h"
#include "core/model_writer.h"
#include "core/peft_export.h"

namespace sbora::core {

/// Writes the folder, weights from `source` in the order of ExpectedAdapterTensors, tokenizer files from `base_dir`.
/// Files that are there already are replaced. Checks the weights' size against ArtifactBytes and opens the result as a
/// reader would. REQUIRED: config.method is kFull.
/// Errors: those of the source and the file system; INTERNAL ARTIFACT_SIZE; those of OpenFullCheckpoint.
StatusOr<ExportedFolder> WriteFullCheckpoint(const std::filesystem::path& base_dir, const std::filesystem::path& out_dir,
                                             const AdapterConfig& config, const TensorSource& source,
                                             const ShardOptions& options = {});

/// Opens one and holds its weights against its config. `base_hash`: what it must have been trained from; empty: not
/// checked. Errors: those of ReadAdapterConfig and ModelFolder::Open; FAILED_PRECONDITION BASE_HASH_MISMATCH;
/// INVALID_ARGUMENT ADAPTER_TENSOR_MISMATCH when config.json is of other shapes than sbora_config.json.
StatusOr<ModelFolder> OpenFullCheckpoint(const std::filesystem::path& dir, const std::string& base_hash = "");

}  // namespace sbora::core
