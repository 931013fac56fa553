#include "core/model_import.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "common/status_macros.h"
#include "core/bounded_json.h"
#include "core/gguf.h"
#include "core/gguf_import.h"
#include "core/model_folder.h"
#include "core/model_writer.h"
#include "core/nf4_model.h"
#include "core/sentencepiece.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kMaxTokenizerBytes = 256 << 20;
constexpr int64_t kMaxSmallJsonBytes = 16 << 20;

Status PickleRefused(const fs::path& path) {
  return InvalidArgument("PICKLE_REFUSED",
                         fmt::format("{} is a pickle or archive, which can run code when loaded; convert the weights to "
                                     "safetensors first", path.string()));
}

bool HasPickleName(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt" || extension == ".pkl";
}

std::string Magic(const fs::path& path) {
  std::string magic(4, '\0');
  std::ifstream in(path, std::ios::binary);
  in.read(magic.data(), 4);
  magic.resize(static_cast<size_t>(in.gcount()));
  return magic;
}

bool HasPickleMagic(const std::string& magic) {
  return magic.starts_with("PK\x03\x04") || (magic.size() >= 2 && magic[0] == '\x80' && magic[1] >= 2 && magic[1] <= 5);
}

/// Pickles beside safetensors are ignored; pickles alone, or dressed up as safetensors, are refused.
Status CheckWeightFiles(const fs::path& dir) {
  fs::path pickle;
  bool safetensors = false;
  std::error_code ec;
  for (fs::directory_iterator it(dir, ec), end; !ec && it != end; it.increment(ec)) {
    if (it->path().extension() == ".safetensors") {
      if (HasPickleMagic(Magic(it->path()))) return PickleRefused(it->path());
      safetensors = true;
    } else if (HasPickleName(it->path())) {
      pickle = it->path();
    }
  }
  if (ec) return FromErrno(ec.value(), fmt::format("reading {}", dir.string()));
  if (!safetensors && !pickle.empty()) return PickleRefused(pickle);
  return OkStatus();
}

StatusOr<std::string> ReadJsonObject(const fs::path& path, int64_t max_bytes) {
  SBORA_ASSIGN_OR_RETURN(std::string text, ReadFile(path, max_bytes));
  if (!ParseBoundedJson(text).is_object()) {
    return InvalidArgument("MODEL_FILE_MALFORMED", fmt::format("{} is no JSON object of at most {} levels; save the model or fetch it again",
                                                               path.string(), kMaxJsonDepth));
  }
  return text;
}

/// Models for chat often name more end tokens in generation_config.json than in config.json.
void MergeEndTokens(const std::string& generation_config, ModelConfig& config) {
  const Json json = Json::parse(generation_config, nullptr, false);
  const Json eos = json.value("eos_token_id", Json());
  for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(config.vocab_size)) continue;
    auto& ids = config.eos_token_ids;
    if (std::find(ids.begin(), ids.end(), id.get<int64_t>()) == ids.end()) ids.push_back(id.get<int64_t>());
  }
}

/// A folder with a sentencepiece tokenizer.model alone.
StatusOr<std::string> FromSentencePiece(const fs::path& dir) {
  SBORA_ASSIGN_OR_RETURN(const std::string model, ReadFile(dir / "tokenizer.model", kMaxTokenizerBytes));
  std::error_code ec;
  std::string settings;
  if (fs::exists(dir / "tokenizer_config.json", ec)) {
    SBORA_ASSIGN_OR_RETURN(settings, ReadJsonObject(dir / "tokenizer_config.json", kMaxSmallJsonBytes));
  }
  // transformers reads it only without the decoder.
  if (fs::exists(dir / "added_tokens.json", ec) && settings.find("added_tokens_decoder") == std::string::npos) {
    return Unimplemented(
        "TOKENIZER_UNSUPPORTED",
        fmt::format("{} has tokens in added_tokens.json and no added_tokens_decoder in tokenizer_config.json; save "
                    "the tokenizer with its tokenizer.json",
                    dir.string()));
  }
  auto tokenizer = TokenizerJsonOfSentencePiece(model, settings);
  if (!tokenizer.ok()) return tokenizer.status().WithContext((dir / "tokenizer.model").string());
  return tokenizer;
}

class Importer {
 public:
  Importer(const fs::path& out_dir, const ImportOptions& options) : out_dir_(out_dir), options_(options) {}

  Status FromFolder(const fs::path& dir) {
    SBORA_RETURN_IF_ERROR(CheckWeightFiles(dir));
    const auto text = ReadFile(dir / "config.json", kMaxSmallJsonBytes);
    if (text.ok() && IsNf4Config(*text)) return FromNf4Folder(dir);
    SBORA_ASSIGN_OR_RETURN(const ModelFolder source, ModelFolder::Open(dir));
    model_.config = source.config();
    SBORA_RETURN_IF_ERROR(CopyTokenizerFiles(dir));
    std::vector<TensorSpec> specs = ExpectedTensors(source.config());
    for (TensorSpec& spec : specs) {
      SBORA_ASSIGN_OR_RETURN(const TensorView view, source.Tensor(spec.name));
      spec.dtype = view.dtype;
    }
    return Finish(specs, [&](const TensorSpec& spec, const ByteSink& sink) -> Status {
      SBORA_ASSIGN_OR_RETURN(const TensorView view, source.Tensor(spec.name));
      return sink(view.data);
    });
  }

  /// The weights as they are; the hash was checked when the folder was opened.
  Status FromNf4Folder(const fs::path& dir) {
    const auto alive = [this] {
      if (options_.progress) options_.progress(0, 1);
    };
    SBORA_ASSIGN_OR_RETURN(const Nf4ModelFolder source, Nf4ModelFolder::Open(dir, alive));
    Nf4Config config = source.config();
    if (!config.merged()) {
      return InvalidArgument("NF4_BASE_IMPORT", fmt::format("{} is base {} in NF4, which each worker makes for itself; import "
                                                            "the plain base and use quantization nf4", dir.string(),
                                                            config.base_hash));
    }
    model_.config = config.model;
    SBORA_RETURN_IF_ERROR(CopyTokenizerFiles(dir));
    config.model = model_.config;  // with the end tokens of generation_config.json
    std::vector<TensorSpec> specs;
    for (const SafetensorsFile& shard : source.shards()) {
      std::vector<TensorView> views = shard.tensors();
      std::sort(views.begin(), views.end(), [](const auto& a, const auto& b) { return a.data.data() < b.data.data(); });
      for (const TensorView& view : views) specs.push_back({view.name, view.dtype, view.shape});
    }
    SBORA_RETURN_IF_ERROR(WriteWeights(specs, [&](const TensorSpec& spec, const ByteSink& sink) -> Status {
      SBORA_ASSIGN_OR_RETURN(const TensorView view, source.Tensor(spec.name));
      return sink(view.data);
    }));
    SBORA_RETURN_IF_ERROR(Write("config.json", ToJson(config)));
    Describe();
    model_.held_as = config.held_as();
    SBORA_ASSIGN_OR_RETURN(const Nf4ModelFolder written, Nf4ModelFolder::Open(out_dir_, alive));
    model_.base_hash = written.config().merged_hash;
    return OkStatus();
  }

  Status FromGguf(const fs::path& path) {
    SBORA_ASSIGN_OR_RETURN(const GgufFile source, GgufFile::Open(path));
    SBORA_ASSIGN_OR_RETURN(model_.config, GgufModelConfig(source));
    SBORA_ASSIGN_OR_RETURN(const auto specs, GgufTensorSpecs(source, model_.config));
    SBORA_ASSIGN_OR_RETURN(const TokenizerFiles tokenizer, GgufTokenizer(source, model_.config));
    SBORA_RETURN_IF_ERROR(Write("tokenizer.json", tokenizer.tokenizer_json));
    SBORA_RETURN_IF_ERROR(Write("tokenizer_config.json", tokenizer.tokenizer_config_json));
    model_.has_chat_template = tokenizer.has_chat_template;
    return Finish(specs, [&](const TensorSpec& spec, const ByteSink& sink) -> Status {
      SBORA_ASSIGN_OR_RETURN(const auto bytes, GgufTensorBytes(source, model_.config, spec));
      return sink(bytes);
    });
  }

  ImportedModel Take() { return std::move(model_); }

 private:
  Status Write(const char* name, std::string_view text) {
    SBORA_ASSIGN_OR_RETURN(WrittenFile file, WriteSmallFile(out_dir_ / name, text));
    model_.files.push_back(std::move(file));
    return OkStatus();
  }

  Status CopyTokenizerFiles(const fs::path& dir) {
    std::error_code ec;
    if (!fs::exists(dir / "tokenizer.json", ec) && !fs::exists(dir / "tokenizer.model", ec)) {
      return NotFound(
          "MODEL_FILE_MISSING",
          fmt::format("{} holds neither tokenizer.json nor tokenizer.model; save the tokenizer as a fast tokenizer "
                      "(transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...))",
                      dir.string()));
    }
    SBORA_ASSIGN_OR_RETURN(const std::string tokenizer, fs::exists(dir / "tokenizer.json", ec)
                                                            ? ReadJsonObject(dir / "tokenizer.json", kMaxTokenizerBytes)
                                                            : FromSentencePiece(dir));
    SBORA_RETURN_IF_ERROR(Write("tokenizer.json", tokenizer));
    for (const char* name : {"tokenizer_config.json", "generation_config.json", "special_tokens_map.json"}) {
      if (!fs::exists(dir / name, ec)) continue;
      SBORA_ASSIGN_OR_RETURN(const std::string text, ReadJsonObject(dir / name, kMaxSmallJsonBytes));
      SBORA_RETURN_IF_ERROR(Write(name, text));
      if (name == std::string_view("tokenizer_config.json")) {
        model_.has_chat_template = Json::parse(text, nullptr, false).contains("chat_template");
      }
      if (name == std::string_view("generation_config.json")) MergeEndTokens(text, model_.config);
    }
    if (fs::exists(dir / "chat_template.jinja", ec)) {
      SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir / "chat_template.jinja", 1 << 20));
      SBORA_RETURN_IF_ERROR(Write("chat_template.jinja", text));
      model_.has_chat_template = true;
    }
    return OkStatus();
  }

  Status WriteWeights(const std::vector<TensorSpec>& specs, const TensorSource& source) {
    SBORA_ASSIGN_OR_RETURN(auto shards,
                           WriteModelShards(out_dir_, specs, source,
                                            {.max_shard_bytes = options_.max_shard_bytes, .progress = options_.progress,
                                             .cancelled = options_.cancelled}));
    for (WrittenFile& file : shards) model_.files.push_back(std::move(file));
    return OkStatus();
  }

  /// After the last file.
  void Describe() {
    std::sort(model_.files.begin(), model_.files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
    for (const WrittenFile& file : model_.files) model_.total_bytes += file.size_bytes;
    model_.parameter_count = ParameterCount(model_.config);
  }

  Status Finish(const std::vector<TensorSpec>& specs, const TensorSource& source) {
    SBORA_RETURN_IF_ERROR(WriteWeights(specs, source));
    SBORA_RETURN_IF_ERROR(Write("config.json", ToHfConfigJson(model_.config)));
    Describe();
    // Hashed from what was written, so that the hash speaks of the files that will be used.
    SBORA_ASSIGN_OR_RETURN(const ModelFolder written, ModelFolder::Open(out_dir_));
    const auto count = static_cast<int64_t>(specs.size());
    model_.base_hash = written.ComputeBaseHash([&] {
      if (options_.progress) options_.progress(count, count);
    });
    return OkStatus();
  }

  const fs::path& out_dir_;
  const ImportOptions& options_;
  ImportedModel model_;
};

}  // namespace

StatusOr<ImportedModel> ImportModel(const fs::path& source, const fs::path& out_dir, const ImportOptions& options) {
  std::error_code ec;
  const auto status = fs::status(source, ec);
  if (!fs::exists(status)) {
    return NotFound("SOURCE_NOT_FOUND", fmt::format("{} does not exist; give an HF folder or a .gguf file", source.string()));
  }
  Importer importer(out_dir, options);
  if (fs::is_directory(status)) {
    SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
    SBORA_RETURN_IF_ERROR(importer.FromFolder(source));
    return importer.Take();
  }
  const std::string magic = Magic(source);
  if (HasPickleMagic(magic) || (HasPickleName(source) && magic != "GGUF")) return PickleRefused(source);
  if (magic != "GGUF") {
    return InvalidArgument("SOURCE_UNKNOWN_FORMAT",
                           fmt::format("{} is no GGUF file; give a .gguf file, or the folder that holds config.json, "
                                       "tokenizer.json and safetensors", source.string()));
  }
  SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
  SBORA_RETURN_IF_ERROR(importer.FromGguf(source));
  return importer.Take();
}

}  // namespace sbora::core
