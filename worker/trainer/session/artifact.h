/// The finished adapter folder: adapter_config.json and adapter_model.safetensors. The coordinator alone adds the manifest,
/// when it commits them. Torch-free.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "common/status.h"
#include "core/adapter.h"
#include "worker/trainer/checkpoint/adapter_layout.h"

namespace sbora::trainer {

/// Writes the two files into `directory` (existing ones are replaced) and checks the size of the tensors against
/// core::ArtifactBytes. Errors: file system; INTERNAL ARTIFACT_SIZE.
Status WriteArtifact(const std::filesystem::path& directory, const core::AdapterConfig& config,
                     const AdapterLayout& layout, std::span<const float> parameters);

/// Before step 0: what the end of the run will need is there. Writes the artifact of `parameters` into a temporary
/// folder beside the real files, opens it as a reader would, removes it; then asks for `spare_bytes` more on
/// `checkpoint_directory`. Errors: RESOURCE_EXHAUSTED NO_SPACE naming folder, needed and free bytes; file system.
Status RehearseArtifact(const std::filesystem::path& directory, const core::AdapterConfig& config,
                        const AdapterLayout& layout, std::span<const float> parameters,
                        const std::filesystem::path& checkpoint_directory, int64_t spare_bytes);

}  // namespace sbora::trainer
