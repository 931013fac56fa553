#include "core/full_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/check.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxCopiedBytes = 256 << 20;
constexpr const char* kTokenizerFiles[] = {"chat_template.jinja", "generation_config.json", "special_tokens_map.json",
                                           "tokenizer.json", "tokenizer_config.json"};

/// The base's shapes with the dtype that the weights have now.
ModelConfig TrainedConfig(const AdapterConfig& config) {
  ModelConfig trained = config.base_config;
  trained.dtype = config.artifact_dtype;
  return trained;
}

}  // namespace

StatusOr<ExportedFolder> WriteFullCheckpoint(const fs::path& base_dir, const fs::path& out_dir,
                                             const AdapterConfig& config, const TensorSource& source,
                                             const ShardOptions& options) {
  SBORA_CHECK(config.method == AdapterMethod::kFull, "a checkpoint of method {}", AdapterMethodName(config.method));
  ExportedFolder folder;
  SBORA_ASSIGN_OR_RETURN(folder.files, WriteModelShards(out_dir, ExpectedAdapterTensors(config), source, options));
  int64_t weights = 0;
  for (const WrittenFile& file : folder.files) weights += file.size_bytes;
  const bool predictable = options.max_shard_bytes == ShardOptions{}.max_shard_bytes;
  if (const int64_t expected = ArtifactBytes(config); predictable && weights != expected) {
    return Internal("ARTIFACT_SIZE", fmt::format("the weights in {} have {} bytes, {} were predicted", out_dir.string(),
                                                 weights, expected));
  }
  const auto write = [&](std::string_view name, std::string_view text) -> Status {
    SBORA_ASSIGN_OR_RETURN(WrittenFile file, WriteSmallFile(out_dir / name, text));
    folder.files.push_back(std::move(file));
    return OkStatus();
  };
  for (const char* name : kTokenizerFiles) {
    std::error_code ec;
    if (!fs::exists(base_dir / name, ec)) continue;
    SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(base_dir / name, kMaxCopiedBytes));
    SBORA_RETURN_IF_ERROR(write(name, text));
  }
  SBORA_RETURN_IF_ERROR(write("config.json", ToHfConfigJson(TrainedConfig(config))));
  SBORA_RETURN_IF_ERROR(write(kFullConfigFile, ToJson(config)));
  SBORA_RETURN_IF_ERROR(SyncDirectory(out_dir));
  SBORA_RETURN_IF_ERROR(OpenFullCheckpoint(out_dir, config.base_hash).status());
  std::sort(folder.files.begin(), folder.files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (const WrittenFile& file : folder.files) folder.total_bytes += file.size_bytes;
  return folder;
}

StatusOr<ModelFolder> OpenFullCheckpoint(const fs::path& dir, const std::string& base_hash) {
  SBORA_ASSIGN_OR_RETURN(const AdapterConfig config, ReadAdapterConfig(dir));
  if (config.method != AdapterMethod::kFull) {
    return InvalidArgument("ADAPTER_CONFIG_MALFORMED", fmt::format("{} holds an adapter of method {}, no whole checkpoint",
                                                                   dir.string(), AdapterMethodName(config.method)));
  }
  if (!base_hash.empty() && config.base_hash != base_hash) {
    return FailedPrecondition("BASE_HASH_MISMATCH", fmt::format("the checkpoint was trained from base {}, this model is {}",
                                                                config.base_hash, base_hash));
  }
  SBORA_ASSIGN_OR_RETURN(ModelFolder folder, ModelFolder::Open(dir));
  if (folder.config() != TrainedConfig(config)) {
    return InvalidArgument("ADAPTER_TENSOR_MISMATCH", fmt::format("{}: config.json differs from the model that {} names",
                                                                  dir.string(), kFullConfigFile));
  }
  return folder;
}

}  // namespace sbora::core
