/// Leaving the service: an adapter as a PEFT LoRA folder, or merged into its base.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/safetensors.h"

namespace sbora::core {

struct ExportedFolder {
  std::vector<WrittenFile> files;  ///< ascending by name
  int64_t total_bytes = 0;
};

/// Writes an exact PEFT LoRA folder (adapter_config.json, adapter_model.safetensors). SBoRA-FA becomes a one-hot
/// lora_A [r, k] beside lora_B = B; FB a one-hot lora_B [d, r] beside lora_A = A; r, alpha and rank_stabilized
/// (use_rslora) are kept, so s is too, module by module (rank_pattern, alpha_pattern, layers_to_transform, target_modules
/// of one layer by their full names). LoRA and DoRA tensors are copied. `base_model_name_or_path` in the PEFT config:
/// `base_path` if given, else the name in the adapter. PEFT has no place for how the base was held: an adapter of an NF4
/// base belongs on a model that was loaded in 4 bits.
/// Errors: those of AdapterFolder::Open (FULL_CHECKPOINT among them); FAILED_PRECONDITION OUTPUT_NOT_EMPTY.
StatusOr<ExportedFolder> ExportPeft(const std::filesystem::path& adapter_dir, const std::filesystem::path& out_dir,
                                    const std::string& base_path = {});

struct MergeOptions {
  /// Called after each tensor; with 0 done after each that is hashed before.
  std::function<void(int64_t tensors_done, int64_t tensors_total)> progress;
  std::function<bool()> cancelled;
  /// Skips hashing the base (reads it once less) when the caller already knows its base hash.
  std::string known_base_hash;
};

/// Writes the base with the adapter added in: the same shards, config and tokenizer files. FA: W0[:, idx] += s B; FB:
/// W0[idx, :] += s A; LoRA: W0 += s B A; DoRA: m / ||W0 + s B A|| rows of (W0 + s B A). Sums are float32, rounded once to
/// W's dtype; all bytes of W the method does not touch are copied unchanged. Streams tensor by tensor.
/// Errors: those of AdapterFolder::Open (FULL_CHECKPOINT among them); FAILED_PRECONDITION BASE_HASH_MISMATCH naming both
/// hashes, OUTPUT_NOT_EMPTY; UNIMPLEMENTED MERGE_QUANTIZED_BASE for an adapter of a quantised base (the float weights are
/// not what it was trained against); CANCELLED.
StatusOr<ExportedFolder> MergeAdapter(const std::filesystem::path& base_dir, const std::filesystem::path& adapter_dir,
                                      const std::filesystem::path& out_dir, const MergeOptions& options = {});

}  // namespace sbora::core
