#include "core/model_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/bounded_json.h"

namespace sbora::core {
namespace {

constexpr int64_t kMaxIndexBytes = 64 << 20;

/// True for a plain name: no separator, no "..", not empty.
bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos &&
         name != "." && name != "..";
}

/// Buffers that old exports carry and that follow from the config.
bool IsDerivedBuffer(std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); }

StatusOr<std::vector<std::string>> ShardNames(const std::filesystem::path& dir) {
  std::error_code ec;
  const auto index_path = dir / "model.safetensors.index.json";
  if (!std::filesystem::exists(index_path, ec)) {
    if (std::filesystem::exists(dir / "model.safetensors", ec)) return std::vector<std::string>{"model.safetensors"};
    return NotFound("MODEL_FILE_MISSING", fmt::format("{} holds neither model.safetensors nor "
                                                      "model.safetensors.index.json", dir.string()));
  }
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(index_path, kMaxIndexBytes));
  const nlohmann::json json = ParseBoundedJson(text);
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return InvalidArgument("MODEL_INDEX_MALFORMED", fmt::format("{} has no weight_map", index_path.string()));
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    if (!file.is_string() || !IsPlainFileName(file.get<std::string>())) {
      return InvalidArgument("MODEL_INDEX_MALFORMED", fmt::format("{}: \"{}\" names no plain file", index_path.string(),
                                                                  tensor));
    }
    names.insert(file.get<std::string>());
  }
  if (names.empty() || names.size() > 10'000) {
    return InvalidArgument("MODEL_INDEX_MALFORMED", fmt::format("{} names {} shards; 1 to 10000 are allowed",
                                                                index_path.string(), names.size()));
  }
  return std::vector<std::string>(names.begin(), names.end());
}

}  // namespace

StatusOr<std::vector<SafetensorsFile>> OpenShards(const std::filesystem::path& dir) {
  SBORA_ASSIGN_OR_RETURN(const auto names, ShardNames(dir));
  std::vector<SafetensorsFile> shards;
  for (const std::string& name : names) {
    std::error_code ec;
    if (!std::filesystem::exists(dir / name, ec)) {
      return NotFound("MODEL_FILE_MISSING", fmt::format("{} is named by the index and is not there", (dir / name).string()));
    }
    SBORA_ASSIGN_OR_RETURN(auto shard, SafetensorsFile::Open(dir / name));
    shards.push_back(std::move(shard));
  }
  return shards;
}

StatusOr<ModelFolder> ModelFolder::Open(const std::filesystem::path& dir) {
  ModelFolder folder;
  folder.dir_ = dir;
  std::error_code ec;
  if (!std::filesystem::exists(dir / "config.json", ec)) {
    return NotFound("MODEL_FILE_MISSING", fmt::format("{} holds no config.json", dir.string()));
  }
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir / "config.json", 1 << 20));
  SBORA_ASSIGN_OR_RETURN(folder.config_, ParseHfConfig(text));
  SBORA_RETURN_IF_ERROR(folder.LoadShards());
  SBORA_RETURN_IF_ERROR(folder.CheckTensors());
  return folder;
}

Status ModelFolder::LoadShards() {
  SBORA_ASSIGN_OR_RETURN(shards_, OpenShards(dir_));
  for (size_t i = 0; i < shards_.size(); ++i) {
    for (const TensorView& view : shards_[i].tensors()) {
      if (IsDerivedBuffer(view.name) || (config_.tie_word_embeddings && view.name == "lm_head.weight")) continue;
      if (!shard_of_tensor_.emplace(view.name, i).second) {
        return InvalidArgument("MODEL_INDEX_MALFORMED", fmt::format("tensor \"{}\" is in two shards of {}", view.name,
                                                                    dir_.string()));
      }
    }
  }
  return OkStatus();
}

Status ModelFolder::CheckTensors() {
  const auto expected = ExpectedTensors(config_);
  for (const TensorSpec& spec : expected) {
    const auto view = Tensor(spec.name);
    if (!view.ok()) {
      return InvalidArgument("MODEL_TENSOR_MISSING", fmt::format("{} lacks tensor \"{}\", which its config.json implies",
                                                                 dir_.string(), spec.name));
    }
    if (view->shape != spec.shape || !IsWeightDType(view->dtype)) {
      return InvalidArgument("MODEL_TENSOR_SHAPE",
                             fmt::format("tensor \"{}\" is {} {}, config.json implies [{}] in F32, F16 or BF16", spec.name,
                                         DTypeName(view->dtype), fmt::format("[{}]", fmt::join(view->shape, ", ")),
                                         fmt::join(spec.shape, ", ")));
    }
    names_.push_back(spec.name);
  }
  std::sort(names_.begin(), names_.end());
  for (const auto& [name, shard] : shard_of_tensor_) {
    if (!std::binary_search(names_.begin(), names_.end(), name)) {
      return InvalidArgument("MODEL_TENSOR_UNEXPECTED",
                             fmt::format("{} holds tensor \"{}\", which a LLaMA of this config.json does not have",
                                         dir_.string(), name));
    }
  }
  return OkStatus();
}

StatusOr<TensorView> ModelFolder::Tensor(std::string_view name) const {
  const auto it = shard_of_tensor_.find(name);
  if (it == shard_of_tensor_.end()) {
    return NotFound("TENSOR_NOT_FOUND", fmt::format("{} holds no tensor \"{}\"", dir_.string(), name));
  }
  return shards_[it->second].Tensor(name);
}

void WeightsHash::Add(const TensorView& view, std::span<const std::byte> bytes) {
  hash_.Update(fmt::format("{}\n{}\n{}\n", view.name, DTypeName(view.dtype), fmt::join(view.shape, ",")));
  hash_.Update(bytes);
}

std::string ModelFolder::ComputeBaseHash(const std::function<void()>& tensor_done) const {
  WeightsHash hash;
  for (const std::string& name : names_) {
    const auto view = Tensor(name);
    SBORA_CHECK(view.ok(), "{} vanished after Open", name);
    hash.Add(*view);
    if (tensor_done) tensor_done();
  }
  return hash.FinishHex();
}

}  // namespace sbora::core
