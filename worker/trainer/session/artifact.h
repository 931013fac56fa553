/// What a run leaves: the adapter's two files, or with full fine-tuning a checkpoint (core/full_checkpoint.h). The
/// coordinator alone adds the manifest, when it commits them. Torch-free.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>

#include "common/status.h"
#include "core/adapter.h"
#include "worker/trainer/checkpoint/adapter_layout.h"

namespace sbora::trainer {

struct ArtifactPlan {
  core::AdapterConfig config;
  AdapterLayout layout;
  std::filesystem::path base_dir;  ///< full fine-tuning: where the tokenizer files come from
};

/// Writes the files into `directory` (existing ones are replaced) and checks the size of the tensors against
/// core::ArtifactBytes. `alive` is called after each of a checkpoint's tensors. Errors: file system; INTERNAL
/// ARTIFACT_SIZE.
Status WriteArtifact(const std::filesystem::path& directory, const ArtifactPlan& plan, std::span<const float> parameters,
                     const std::function<void()>& alive = {});

/// Before step 0: what the end of the run will need is there. Asks for the artifact's space, writes an adapter of
/// `parameters` into a temporary folder beside the real files, opens it as a reader would, removes it (a whole
/// checkpoint is not written for that); then asks for `spare_bytes` more on `checkpoint_directory`.
/// Errors: RESOURCE_EXHAUSTED NO_SPACE naming folder, needed and free bytes; file system.
Status RehearseArtifact(const std::filesystem::path& directory, const ArtifactPlan& plan,
                        std::span<const float> parameters, const std::filesystem::path& checkpoint_directory,
                        int64_t spare_bytes);

}  // namespace sbora::trainer
