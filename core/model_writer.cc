#include "core/model_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"

namespace sbora::core {
namespace {

StatusOr<std::vector<ShardPlan>> PlanShards(const std::vector<TensorSpec>& tensors, int64_t max_bytes) {
  std::vector<ShardPlan> shards;
  int64_t used = 0;
  for (const TensorSpec& spec : tensors) {
    SBORA_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(spec));
    if (shards.empty() || used > max_bytes - bytes) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().tensors.push_back(spec);
    used += bytes;
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].name = shards.size() == 1 ? "model.safetensors"
                                        : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

const std::map<std::string, std::string>& ShardMetadata() {
  static const auto& metadata = *new std::map<std::string, std::string>{{"format", "pt"}};
  return metadata;
}

std::string IndexJson(const std::vector<ShardPlan>& shards) {
  nlohmann::json map = nlohmann::json::object();
  int64_t total = 0;
  for (const ShardPlan& shard : shards) {
    for (const TensorSpec& spec : shard.tensors) {
      map[spec.name] = shard.name;
      total += TensorBytes(spec).value();
    }
  }
  return nlohmann::json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(2) + "\n";
}

}  // namespace

StatusOr<std::vector<WrittenFile>> WriteModelShards(const std::filesystem::path& out_dir,
                                                    const std::vector<TensorSpec>& tensors, const TensorSource& source,
                                                    const ShardOptions& options) {
  SBORA_ASSIGN_OR_RETURN(const auto shards, PlanShards(tensors, options.max_shard_bytes));
  return WritePlannedShards(out_dir, shards, source, options);
}

StatusOr<std::vector<WrittenFile>> WritePlannedShards(const std::filesystem::path& out_dir,
                                                      const std::vector<ShardPlan>& shards, const TensorSource& source,
                                                      const ShardOptions& options) {
  std::vector<WrittenFile> files;
  int64_t done = 0;
  int64_t total = 0;
  for (const ShardPlan& shard : shards) total += std::ssize(shard.tensors);
  for (const ShardPlan& shard : shards) {
    SBORA_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(out_dir / shard.name, shard.tensors, ShardMetadata()));
    const ByteSink sink = [&writer](std::span<const std::byte> bytes) { return writer.Append(bytes); };
    for (const TensorSpec& spec : shard.tensors) {
      if (options.cancelled && options.cancelled()) {
        return Cancelled("CANCELLED", fmt::format("cancelled after {} of {} tensors", done, total));
      }
      SBORA_RETURN_IF_ERROR(source(spec, sink));
      ++done;
      if (options.progress) options.progress(done, total);
    }
    SBORA_ASSIGN_OR_RETURN(WrittenFile file, writer.Finish());
    files.push_back(std::move(file));
  }
  if (shards.size() > 1) {
    SBORA_ASSIGN_OR_RETURN(WrittenFile index, WriteSmallFile(out_dir / "model.safetensors.index.json", IndexJson(shards)));
    files.push_back(std::move(index));
  }
  return files;
}

StatusOr<int64_t> ModelShardsBytes(const std::vector<TensorSpec>& tensors, int64_t max_shard_bytes) {
  SBORA_ASSIGN_OR_RETURN(const auto shards, PlanShards(tensors, max_shard_bytes));
  int64_t total = 0;
  for (const ShardPlan& shard : shards) {
    SBORA_ASSIGN_OR_RETURN(const int64_t bytes, SafetensorsFileBytes(shard.tensors, ShardMetadata()));
    total += bytes;
  }
  if (shards.size() > 1) total += std::ssize(IndexJson(shards));
  return total;
}

StatusOr<WrittenFile> WriteSmallFile(const std::filesystem::path& path, std::string_view text) {
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(path, text));
  return WrittenFile{.name = path.filename().string(), .size_bytes = static_cast<int64_t>(text.size()),
                     .sha256 = Sha256Hex(text)};
}

Status RequireEmptyFolder(const std::filesystem::path& dir) {
  std::error_code ec;
  std::filesystem::create_directories(dir, ec);
  if (ec) return FromErrno(ec.value(), fmt::format("creating {}", dir.string()));
  const bool empty = std::filesystem::is_empty(dir, ec);
  if (ec) return FromErrno(ec.value(), fmt::format("reading {}", dir.string()));
  if (!empty) {
    return FailedPrecondition("OUTPUT_NOT_EMPTY", fmt::format("{} is not empty; name a new folder", dir.string()));
  }
  return OkStatus();
}

}  // namespace sbora::core
