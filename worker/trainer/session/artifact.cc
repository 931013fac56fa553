#include "worker/trainer/session/artifact.h"

#include <fmt/format.h>

#include <map>
#include <string>

#include "common/check.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "core/full_checkpoint.h"

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

Status WriteCheckpoint(const std::filesystem::path& directory, const ArtifactPlan& plan, std::span<const float> parameters,
                       const std::function<void()>& alive) {
  std::map<std::string, const AdapterLayout::Factor*> by_name;
  for (const auto& factor : plan.layout.factors) by_name[factor.name] = &factor;
  core::ShardOptions options;
  options.progress = [&](int64_t, int64_t) {
    if (alive) alive();
  };
  const core::TensorSource source = [&](const core::TensorSpec& spec, const core::ByteSink& sink) -> Status {
    const auto found = by_name.find(spec.name);
    SBORA_CHECK(found != by_name.end() && spec.dtype == core::DType::kF32, "{} is not trained", spec.name);
    SBORA_ASSIGN_OR_RETURN(const int64_t bytes, core::TensorBytes(spec));
    const auto offset = static_cast<size_t>(found->second->offset);
    return sink(std::as_bytes(parameters.subspan(offset, static_cast<size_t>(bytes) / sizeof(float))));
  };
  return core::WriteFullCheckpoint(plan.base_dir, directory, plan.config, source, options).status();
}

}  // namespace

Status WriteArtifact(const std::filesystem::path& directory, const ArtifactPlan& plan, std::span<const float> parameters,
                     const std::function<void()>& alive) {
  if (plan.config.method == core::AdapterMethod::kFull) return WriteCheckpoint(directory, plan, parameters, alive);
  SBORA_ASSIGN_OR_RETURN(const auto written, WriteAdapterTensors(directory / core::kAdapterModelFile, plan.layout,
                                                                 parameters, plan.config.artifact_dtype));
  if (const int64_t expected = core::ArtifactBytes(plan.config); written.size_bytes != expected) {
    return Internal("ARTIFACT_SIZE", fmt::format("{} has {} bytes, {} were predicted", written.name, written.size_bytes,
                                                 expected));
  }
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(directory / core::kAdapterConfigFile, core::ToJson(plan.config)));
  return SyncDirectory(directory);
}

Status RehearseArtifact(const std::filesystem::path& directory, const ArtifactPlan& plan,
                        std::span<const float> parameters, const std::filesystem::path& checkpoint_directory,
                        int64_t spare_bytes) {
  const bool full = plan.config.method == core::AdapterMethod::kFull;
  SBORA_RETURN_IF_ERROR(CheckSpace(directory, core::ArtifactBytes(plan.config), full ? "the checkpoint" : "the adapter"));
  if (!full) {
    SBORA_ASSIGN_OR_RETURN(const auto trial, TempDirectory::Create(directory, ".rehearsal"));
    SBORA_RETURN_IF_ERROR(WriteArtifact(trial.path(), plan, parameters).WithContext("rehearsing the artifact"));
    if (auto opened = core::AdapterFolder::Open(trial.path()); !opened.ok()) {
      return opened.status().WithContext("rehearsing the artifact");
    }
  }
  return CheckSpace(checkpoint_directory, spare_bytes, "keeping three checkpoints");
}

}  // namespace sbora::trainer
