#include "client/model_files.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "common/file.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = 64 << 20;
constexpr std::array kPickleSuffixes = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"};
constexpr std::array kSmallFiles = {
    "config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",  "chat_template.jinja",    "chat_template.json"};

bool IsPickle(const std::string& name) {
  return std::any_of(kPickleSuffixes.begin(), kPickleSuffixes.end(),
                     [&](const char* end) { return name.ends_with(end); });
}

bool IsSmallFile(const std::string& name) {
  if (name.starts_with("tokenizer") && name.ends_with(".json")) return true;
  return std::find(kSmallFiles.begin(), kSmallFiles.end(), name) != kSmallFiles.end();
}

StatusOr<std::set<std::string>> FolderNames(const std::filesystem::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.is_regular_file(error)) names.insert(entry.path().filename().string());
  }
  if (error) return FromErrno(error.value(), fmt::format("listing {}", folder.string()));
  return names;
}

/// The shards an index names, each of which must be in the folder.
StatusOr<std::set<std::string>> IndexedShards(const std::filesystem::path& folder, const std::set<std::string>& names) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(folder / kIndexFile, kMaxIndexBytes));
  const auto index = nlohmann::json::parse(text, nullptr, false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return InvalidArgument("INDEX_MALFORMED", fmt::format("{} has no weight_map", (folder / kIndexFile).string()));
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) {
      return InvalidArgument("INDEX_MALFORMED", fmt::format("{}: {} names no file", kIndexFile, tensor));
    }
    const auto name = shard.get<std::string>();
    if (!names.contains(name)) {
      return InvalidArgument("MODEL_FILE_MISSING",
                             fmt::format("{} names {}, which is not in {}", kIndexFile, name, folder.string()));
    }
    shards.insert(name);
  }
  return shards;
}

Status RefusePickles(const std::filesystem::path& path, const std::vector<std::string>& pickles) {
  return InvalidArgument(
      "PICKLE_REFUSED",
      fmt::format("{} holds pickle files, which can run code when read: {}. Convert them to safetensors "
                  "(save_pretrained with safe_serialization=True) and import that folder",
                  path.string(), fmt::join(pickles, ", ")));
}

StatusOr<ModelFiles> PickFolder(const std::filesystem::path& folder) {
  SBORA_ASSIGN_OR_RETURN(const std::set<std::string> names, FolderNames(folder));
  std::set<std::string> weights;
  ModelFiles picked;
  if (names.contains(kIndexFile)) {
    SBORA_ASSIGN_OR_RETURN(weights, IndexedShards(folder, names));
    picked.files.push_back({folder / kIndexFile, kIndexFile});
  } else {
    std::copy_if(names.begin(), names.end(), std::inserter(weights, weights.end()),
                 [](const std::string& name) { return name.ends_with(".safetensors"); });
  }
  std::copy_if(names.begin(), names.end(), std::back_inserter(picked.skipped), IsPickle);
  if (weights.empty() && !picked.skipped.empty()) return RefusePickles(folder, picked.skipped);
  std::vector<std::string> missing;
  if (!names.contains("config.json")) missing.emplace_back("config.json");
  if (!names.contains("tokenizer.json") && !names.contains("tokenizer.model")) missing.emplace_back("tokenizer.json");
  if (weights.empty()) missing.emplace_back("*.safetensors");
  if (!missing.empty()) {
    const auto gguf =
        std::find_if(names.begin(), names.end(), [](const std::string& name) { return name.ends_with(".gguf"); });
    if (weights.empty() && gguf != names.end()) {
      return InvalidArgument("MODEL_FILE_MISSING",
                             fmt::format("{} is no Hugging Face folder; to import its GGUF file, name it: {}",
                                         folder.string(), (folder / *gguf).string()));
    }
    return InvalidArgument(
        "MODEL_FILE_MISSING",
        fmt::format("{} lacks {}; an import needs config.json, tokenizer.json (or tokenizer.model) and "
                    "safetensors, or one .gguf file",
                    folder.string(), fmt::join(missing, ", ")));
  }
  const bool pieces = !names.contains("tokenizer.json");  // then a sentencepiece model stands in
  for (const std::string& name : names) {
    if ((pieces && name == "tokenizer.model") || IsSmallFile(name) || weights.contains(name))
      picked.files.push_back({folder / name, name});
  }
  return picked;
}

}  // namespace

StatusOr<ModelFiles> PickModelFiles(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return NotFound("PATH_NOT_FOUND", fmt::format("{} does not exist", path.string()));
  }
  if (std::filesystem::is_directory(path, error)) return PickFolder(path);
  const std::string name = path.filename().string();
  if (IsPickle(name)) return RefusePickles(path, {name});
  if (!name.ends_with(".gguf")) {
    return InvalidArgument("NOT_A_MODEL", fmt::format("{} is neither a folder nor a .gguf file", path.string()));
  }
  return ModelFiles{.files = {{path, name}}, .skipped = {}};
}

}  // namespace sbora::client
