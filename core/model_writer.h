/// Writing a model in HF layout: shards of bounded size and their index. Shared by import and merge.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/status.h"
#include "core/safetensors.h"

namespace sbora::core {

using ByteSink = std::function<Status(std::span<const std::byte>)>;
/// Appends all bytes of one tensor to the sink.
using TensorSource = std::function<Status(const TensorSpec&, const ByteSink&)>;

struct ShardOptions {
  int64_t max_shard_bytes = int64_t{2} << 30;  ///< a larger tensor gets a shard of its own
  std::function<void(int64_t tensors_done, int64_t tensors_total)> progress;
  std::function<bool()> cancelled;
};

/// Writes model.safetensors, or model-0000x-of-0000y.safetensors and model.safetensors.index.json. Returns the files in
/// ascending order of name. Errors: those of the source and the writer, CANCELLED.
StatusOr<std::vector<WrittenFile>> WriteModelShards(const std::filesystem::path& out_dir,
                                                    const std::vector<TensorSpec>& tensors, const TensorSource& source,
                                                    const ShardOptions& options);

/// Bytes of all files that WriteModelShards makes of these with the same shard size. Errors: those of SafetensorsFileBytes.
StatusOr<int64_t> ModelShardsBytes(const std::vector<TensorSpec>& tensors,
                                   int64_t max_shard_bytes = ShardOptions{}.max_shard_bytes);

/// One safetensors file of a model.
struct ShardPlan {
  std::string name;  ///< "model.safetensors" when it is the only one
  std::vector<TensorSpec> tensors;
};
/// The same with shards as they are given; an index beside several. `options.max_shard_bytes` is not looked at.
StatusOr<std::vector<WrittenFile>> WritePlannedShards(const std::filesystem::path& out_dir,
                                                      const std::vector<ShardPlan>& shards, const TensorSource& source,
                                                      const ShardOptions& options);

/// Writes one small file atomically and describes it.
StatusOr<WrittenFile> WriteSmallFile(const std::filesystem::path& path, std::string_view text);

/// Creates `dir` when missing. Errors: FAILED_PRECONDITION OUTPUT_NOT_EMPTY, file system errors by errno.
Status RequireEmptyFolder(const std::filesystem::path& dir);

}  // namespace sbora::core
