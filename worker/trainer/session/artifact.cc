#include "worker/trainer/session/artifact.h"

#include <fmt/format.h>

#include "common/file.h"
#include "common/status_macros.h"

namespace sbora::trainer {
namespace {

Status CheckSpace(const std::filesystem::path& directory, int64_t needed_bytes, std::string_view what) {
  std::error_code error;
  const auto space = std::filesystem::space(directory, error);
  if (error) return FromErrno(error.value(), "asking for free space of " + directory.string());
  if (space.available >= static_cast<uintmax_t>(needed_bytes)) return OkStatus();
  return ResourceExhausted("NO_SPACE", fmt::format("{} needs {} bytes in {}, {} are free; make room and resume the job",
                                                   what, needed_bytes, directory.string(), space.available));
}

}  // namespace

Status WriteArtifact(const std::filesystem::path& directory, const core::AdapterConfig& config,
                     const AdapterLayout& layout, std::span<const float> parameters) {
  SBORA_ASSIGN_OR_RETURN(const auto written, WriteAdapterTensors(directory / core::kAdapterModelFile, layout, parameters,
                                                                 config.artifact_dtype));
  if (const int64_t expected = core::ArtifactBytes(config); written.size_bytes != expected) {
    return Internal("ARTIFACT_SIZE", fmt::format("{} has {} bytes, {} were predicted", written.name, written.size_bytes,
                                                 expected));
  }
  const std::string config_text = core::ToJson(config);
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(directory / core::kAdapterConfigFile, config_text));
  return SyncDirectory(directory);
}

Status RehearseArtifact(const std::filesystem::path& directory, const core::AdapterConfig& config,
                        const AdapterLayout& layout, std::span<const float> parameters,
                        const std::filesystem::path& checkpoint_directory, int64_t spare_bytes) {
  SBORA_RETURN_IF_ERROR(CheckSpace(directory, core::ArtifactBytes(config), "the adapter"));
  {
    SBORA_ASSIGN_OR_RETURN(const auto trial, TempDirectory::Create(directory, ".rehearsal"));
    SBORA_RETURN_IF_ERROR(WriteArtifact(trial.path(), config, layout, parameters)
                              .WithContext("rehearsing the artifact"));
    if (auto opened = core::AdapterFolder::Open(trial.path()); !opened.ok()) {
      return opened.status().WithContext("rehearsing the artifact");
    }
  }
  return CheckSpace(checkpoint_directory, spare_bytes, "keeping three checkpoints");
}

}  // namespace sbora::trainer
