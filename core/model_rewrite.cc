#include "core/model_rewrite.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/model_writer.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxCopiedBytes = 256 << 20;
constexpr const char* kTextFiles[] = {"chat_template.jinja", "generation_config.json", "special_tokens_map.json",
                                      "tokenizer.json", "tokenizer_config.json"};

/// Appends the copies to `copied`; leaves out what is not there.
Status CopyFiles(const fs::path& from, const fs::path& to, std::span<const char* const> names,
                 std::vector<WrittenFile>& copied) {
  for (const char* name : names) {
    std::error_code ec;
    if (!fs::exists(from / name, ec)) continue;
    SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(from / name, kMaxCopiedBytes));
    SBORA_ASSIGN_OR_RETURN(WrittenFile file, WriteSmallFile(to / name, text));
    copied.push_back(std::move(file));
  }
  return OkStatus();
}

Status CancelledAfter(int64_t done, int64_t total) {
  return Cancelled("CANCELLED", fmt::format("cancelled after {} of {} tensors", done, total));
}

class Rewriter {
 public:
  Rewriter(const ModelFolder& model, const TensorEdits& edits, const fs::path& out_dir, const RewriteProgress& options)
      : model_(model), edits_(edits), out_dir_(out_dir), options_(options) {
    for (const SafetensorsFile& shard : model.shards()) total_ += static_cast<int64_t>(shard.tensors().size());
  }

  StatusOr<ExportedFolder> Run() {
    for (const SafetensorsFile& shard : model_.shards()) {
      SBORA_RETURN_IF_ERROR(RewriteShard(shard));
      shard.Evict();
    }
    constexpr const char* kConfigFiles[] = {"config.json", "model.safetensors.index.json"};
    SBORA_RETURN_IF_ERROR(CopyFiles(model_.dir(), out_dir_, kConfigFiles, folder_.files));
    SBORA_RETURN_IF_ERROR(CopyFiles(model_.dir(), out_dir_, kTextFiles, folder_.files));
    std::sort(folder_.files.begin(), folder_.files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    for (const WrittenFile& file : folder_.files) folder_.total_bytes += file.size_bytes;
    return std::move(folder_);
  }

 private:
  Status RewriteShard(const SafetensorsFile& shard) {
    std::vector<TensorView> views = shard.tensors();
    std::sort(views.begin(), views.end(), [](const auto& a, const auto& b) { return a.data.data() < b.data.data(); });
    std::vector<TensorSpec> specs;
    for (const TensorView& view : views) specs.push_back({view.name, view.dtype, view.shape});
    SBORA_ASSIGN_OR_RETURN(
        auto writer, SafetensorsWriter::Create(out_dir_ / shard.path().filename(), std::move(specs), shard.metadata()));
    for (const TensorView& view : views) {
      if (options_.cancelled && options_.cancelled()) return CancelledAfter(done_, total_);
      SBORA_RETURN_IF_ERROR(AppendTensor(view, writer));
      ++done_;
      if (options_.progress) options_.progress(done_, total_);
    }
    SBORA_ASSIGN_OR_RETURN(WrittenFile file, writer.Finish());
    folder_.files.push_back(std::move(file));
    return OkStatus();
  }

  Status AppendTensor(const TensorView& view, SafetensorsWriter& writer) {
    const auto edit = edits_.find(view.name);
    if (edit == edits_.end()) return writer.Append(view.data);
    std::vector<std::byte> bytes(view.data.begin(), view.data.end());
    SBORA_RETURN_IF_ERROR(edit->second(view, bytes));
    return writer.Append(bytes);
  }

  const ModelFolder& model_;
  const TensorEdits& edits_;
  const fs::path& out_dir_;
  const RewriteProgress& options_;
  ExportedFolder folder_;
  int64_t done_ = 0;
  int64_t total_ = 0;
};

}  // namespace

StatusOr<ExportedFolder> RewriteModel(const ModelFolder& model, const TensorEdits& edits, const fs::path& out_dir,
                                      const RewriteProgress& options) {
  SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
  return Rewriter(model, edits, out_dir, options).Run();
}

StatusOr<std::vector<WrittenFile>> CopyTextFiles(const fs::path& from, const fs::path& to) {
  std::vector<WrittenFile> copied;
  SBORA_RETURN_IF_ERROR(CopyFiles(from, to, kTextFiles, copied));
  return copied;
}

StatusOr<WeightHashes> HashBeforeAndAfter(const ModelFolder& model, const TensorEdits& edits,
                                          const RewriteProgress& options) {
  WeightsHash before, after;
  const int64_t total = std::ssize(model.tensor_names());
  int64_t done = 0;
  for (const std::string& name : model.tensor_names()) {
    if (options.cancelled && options.cancelled()) return CancelledAfter(done, total);
    if (options.progress) options.progress(0, total);
    SBORA_ASSIGN_OR_RETURN(const TensorView view, model.Tensor(name));
    before.Add(view);
    ++done;
    const auto edit = edits.find(name);
    if (edit == edits.end()) {
      after.Add(view);
      continue;
    }
    std::vector<std::byte> bytes(view.data.begin(), view.data.end());
    SBORA_RETURN_IF_ERROR(edit->second(view, bytes));
    after.Add(view, bytes);
  }
  return WeightHashes{before.FinishHex(), after.FinishHex()};
}

}  // namespace sbora::core
