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

StatusOr<std::vector<std::vector<TensorSpec>>> PlanShards(const std::vector<TensorSpec>& tensors, int64_t max_bytes) {
  std::vector<std::vector<TensorSpec>> shards;
  int64_t used = 0;
  for (const TensorSpec& spec : tensors) {
    SBORA_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(spec));
    if (shards.empty() || used > max_bytes - bytes) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().push_back(spec);
    used += bytes;
  }
  return shards;
}

std::vector<std::string> ShardNames(size_t count) {
  if (count == 1) return {"model.safetensors"};
  std::vector<std::string> names;
  for (size_t i = 1; i <= count; ++i) names.push_back(fmt::format("model-{:05}-of-{:05}.safetensors", i, count));
  return names;
}

const std::map<std::string, std::string>& ShardMetadata() {
  static const auto& metadata = *new std::map<std::string, std::string>{{"format", "pt"}};
  return metadata;
}

std::string IndexJson(const std::vector<std::vector<TensorSpec>>& shards, const std::vector<std::string>& names) {
  nlohmann::json map = nlohmann::json::object();
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const TensorSpec& spec : shards[i]) {
      map[spec.name] = names[i];
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
  const std::vector<std::string> names = ShardNames(shards.size());
  std::vector<WrittenFile> files;
  int64_t done = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    SBORA_ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(out_dir / names[i], shards[i], ShardMetadata()));
    const ByteSink sink = [&writer](std::span<const std::byte> bytes) { return writer.Append(bytes); };
    for (const TensorSpec& spec : shards[i]) {
      if (options.cancelled && options.cancelled()) {
        return Cancelled("CANCELLED", fmt::format("cancelled after {} of {} tensors", done, tensors.size()));
      }
      SBORA_RETURN_IF_ERROR(source(spec, sink));
      ++done;
      if (options.progress) options.progress(done, static_cast<int64_t>(tensors.size()));
    }
    SBORA_ASSIGN_OR_RETURN(WrittenFile file, writer.Finish());
    files.push_back(std::move(file));
  }
  if (shards.size() > 1) {
    SBORA_ASSIGN_OR_RETURN(WrittenFile index,
                           WriteSmallFile(out_dir / "model.safetensors.index.json", IndexJson(shards, names)));
    files.push_back(std::move(index));
  }
  return files;
}

StatusOr<int64_t> ModelShardsBytes(const std::vector<TensorSpec>& tensors, int64_t max_shard_bytes) {
  SBORA_ASSIGN_OR_RETURN(const auto shards, PlanShards(tensors, max_shard_bytes));
  int64_t total = 0;
  for (const std::vector<TensorSpec>& shard : shards) {
    SBORA_ASSIGN_OR_RETURN(const int64_t bytes, SafetensorsFileBytes(shard, ShardMetadata()));
    total += bytes;
  }
  if (shards.size() > 1) total += std::ssize(IndexJson(shards, ShardNames(shards.size())));
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
