#include "core/adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

#include "common/check.h"
#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/bounded_json.h"
#include "core/model_writer.h"
#include "core/r_index.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;

constexpr int64_t kFormatVersion = 1;
constexpr int64_t kQuantizedFormatVersion = 2;
constexpr int64_t kPatternFormatVersion = 3;
constexpr std::pair<AdapterMethod, std::string_view> kMethods[] = {{AdapterMethod::kSboraFa, "sbora_fa"},
                                                                   {AdapterMethod::kSboraFb, "sbora_fb"},
                                                                   {AdapterMethod::kLora, "lora"},
                                                                   {AdapterMethod::kDora, "dora"},
                                                                   {AdapterMethod::kFull, "full"}};
constexpr std::pair<FrozenFactor, std::string_view> kFrozenFactors[] = {
    {FrozenFactor::kNone, "none"}, {FrozenFactor::kRandom, "random"}, {FrozenFactor::kOrthonormal, "orthonormal"}};

Status BadField(std::string_view field, std::string_view what) {
  return InvalidArgument("ADAPTER_CONFIG_MALFORMED", fmt::format("{}: \"{}\" {}", kAdapterConfigFile, field, what))
      .WithViolation(field, std::string(what));
}

StatusOr<int64_t> GetInt(const Json& json, const char* key) {
  if (!json.contains(key) || !json[key].is_number_integer()) return BadField(key, "must be an integer");
  return json[key].get<int64_t>();
}
StatusOr<double> GetNumber(const Json& json, const char* key) {
  if (!json.contains(key) || !json[key].is_number()) return BadField(key, "must be a number");
  return json[key].get<double>();
}
StatusOr<std::string> GetString(const Json& json, const char* key) {
  if (!json.contains(key) || !json[key].is_string()) return BadField(key, "must be a string");
  return json[key].get<std::string>();
}

StatusOr<std::vector<LinearModule>> ParseTargets(const Json& json) {
  if (!json.contains("target_modules") || !json["target_modules"].is_array()) {
    return BadField("target_modules", "must be a list of module names");
  }
  std::vector<LinearModule> targets;
  for (const Json& name : json["target_modules"]) {
    if (!name.is_string()) return BadField("target_modules", "must be a list of module names");
    SBORA_ASSIGN_OR_RETURN(const LinearModule module, ParseLinearModule(name.get<std::string>()));
    targets.push_back(module);
  }
  return targets;
}

StatusOr<BaseQuantization> ParseBaseQuantization(const Json& json, int64_t version) {
  const char* key = "base_quantization";
  if (version == kPatternFormatVersion && !json.contains(key)) return BaseQuantization{};
  if (version == kFormatVersion) {
    return json.contains(key) ? BadField(key, "needs format_version 2") : StatusOr<BaseQuantization>(BaseQuantization{});
  }
  if (!json.contains(key) || !json[key].is_object()) return BadField(key, "must be an object");
  if (json[key].value("method", Json()) != "nf4") return BadField(key, "must have the method nf4");
  const Json nested = json[key].value("double_quantization", Json());
  if (!nested.is_boolean()) return BadField(key, "must say double_quantization true or false");
  return BaseQuantization{.kind = Quantization::kNf4, .double_quantization = nested.get<bool>()};
}

/// rank_stabilized and frozen_a: adapters from before they existed lack both.
Status ParseVariant(const Json& json, AdapterConfig& config) {
  if (json.contains("rank_stabilized")) {
    if (!json["rank_stabilized"].is_boolean()) return BadField("rank_stabilized", "must be true or false");
    config.rank_stabilized = json["rank_stabilized"].get<bool>();
  }
  if (json.contains("frozen_a")) {
    SBORA_ASSIGN_OR_RETURN(const std::string name, GetString(json, "frozen_a"));
    SBORA_ASSIGN_OR_RETURN(config.frozen_a, ParseFrozenFactor(name));
  }
  return OkStatus();
}

/// Numbers by module key, as they stand in the config: {"q_proj": 8, "model.layers.0.self_attn.q_proj": 4}.
template <typename Value>
Json EntriesJson(const std::map<ModuleKey, Value>& entries) {
  Json json = Json::object();
  for (const auto& [key, value] : entries) json[ToString(key)] = value;
  return json;
}

template <typename Value>
Status ParseEntries(const Json& json, const char* field, std::map<ModuleKey, Value>& entries) {
  if (!json.contains(field) || !json[field].is_object()) return BadField(field, "must be an object of modules and numbers");
  for (const auto& [name, value] : json[field].items()) {
    SBORA_ASSIGN_OR_RETURN(const ModuleKey key, ParseModuleKey(name));
    const bool good = std::is_integral_v<Value> ? value.is_number_integer() : value.is_number();
    if (!good) return BadField(field, "must be an object of modules and numbers");
    entries[key] = value.template get<Value>();
  }
  return OkStatus();
}

Status ParsePattern(const Json& json, AdapterPattern& pattern) {
  SBORA_RETURN_IF_ERROR(ParseEntries(json, "rank_pattern", pattern.ranks));
  SBORA_RETURN_IF_ERROR(ParseEntries(json, "alpha_pattern", pattern.alphas));
  const auto strings = [&](const char* field, std::vector<std::string>& out) {
    if (!json.contains(field) || !json[field].is_array()) return BadField(field, "must be a list of strings");
    for (const Json& item : json[field]) {
      if (!item.is_string()) return BadField(field, "must be a list of strings");
      out.push_back(item.get<std::string>());
    }
    return OkStatus();
  };
  std::vector<std::string> layers, single;
  SBORA_RETURN_IF_ERROR(strings("target_layers", layers));
  SBORA_RETURN_IF_ERROR(strings("single_targets", single));
  SBORA_ASSIGN_OR_RETURN(pattern.layers, ParseLayers(layers));
  for (const std::string& name : single) {
    SBORA_ASSIGN_OR_RETURN(const ModuleKey key, ParseModuleKey(name));
    if (key.layer == ModuleKey::kEveryLayer) return BadField("single_targets", "must name a layer in each entry");
    pattern.single.push_back(key);
  }
  std::sort(pattern.single.begin(), pattern.single.end());
  return OkStatus();
}

Status CheckRanks(const AdapterConfig& config) {
  for (const AdaptedModule& module : config.Modules()) {
    const int64_t limit = MaxRank(config.method, module.shape);
    if (module.rank >= 1 && module.rank <= limit) continue;
    const std::string name = config.pattern.empty() ? std::string(LinearModuleName(module.module))
                                                    : ModulePath(module.layer, module.module);
    return InvalidArgument("RANK_OUT_OF_RANGE", fmt::format("rank {} is outside [1, {}] for {} with {}", module.rank, limit,
                                                            name, AdapterMethodName(config.method)))
        .WithMetadata("module", std::string(LinearModuleName(module.module)))
        .WithMetadata("limit", std::to_string(limit))
        .WithViolation("rank", fmt::format("must be at most {} for {} of this model", limit, name));
  }
  return OkStatus();
}

Status CheckAlpha(double alpha) {
  if (alpha > 0 && alpha <= kMaxAlpha) return OkStatus();
  return InvalidArgument("ALPHA_OUT_OF_RANGE", fmt::format("alpha {} is outside (0, {}]", alpha, kMaxAlpha))
      .WithViolation("alpha", fmt::format("must be greater than 0 and at most {}", kMaxAlpha));
}

}  // namespace

std::string_view AdapterMethodName(AdapterMethod method) {
  for (const auto& [value, name] : kMethods) {
    if (value == method) return name;
  }
  SBORA_CHECK(false, "method {} is outside the enum", static_cast<int>(method));
}

StatusOr<AdapterMethod> ParseAdapterMethod(std::string_view name) {
  for (const auto& [value, known] : kMethods) {
    if (known == name) return value;
  }
  return InvalidArgument("METHOD_UNKNOWN", fmt::format("method \"{}\" is unknown; sbora_fa, sbora_fb, lora, dora and full "
                                                       "are known", name.substr(0, 80)))
      .WithViolation("method", "must be sbora_fa, sbora_fb, lora, dora or full");
}

std::string_view Describe(const BaseQuantization& quantization) {
  if (quantization.kind == Quantization::kNone) return "none";
  return quantization.double_quantization ? "nf4 with double quantisation" : "nf4";
}

bool UsesIndices(AdapterMethod method) {
  return method == AdapterMethod::kSboraFa || method == AdapterMethod::kSboraFb;
}

std::string_view FrozenFactorName(FrozenFactor frozen) {
  for (const auto& [value, name] : kFrozenFactors) {
    if (value == frozen) return name;
  }
  SBORA_CHECK(false, "frozen factor {} is outside the enum", static_cast<int>(frozen));
}

StatusOr<FrozenFactor> ParseFrozenFactor(std::string_view name) {
  for (const auto& [value, known] : kFrozenFactors) {
    if (known == name) return value;
  }
  return InvalidArgument("FROZEN_FACTOR_UNKNOWN",
                         fmt::format("frozen_a \"{}\" is unknown; none, random and orthonormal are known", name.substr(0, 80)))
      .WithViolation("frozen_a", "must be none, random or orthonormal");
}

double AdapterScale(double alpha, int64_t rank, bool rank_stabilized) {
  const auto r = static_cast<double>(rank);
  return alpha / (rank_stabilized ? std::sqrt(r) : r);
}

double AdapterConfig::ScaleOf(int64_t layer, LinearModule module) const {
  return AdapterScale(AlphaOf(placement(), layer, module), RankOf(placement(), layer, module), rank_stabilized);
}

std::string ToJson(const AdapterConfig& config) {
  Json targets = Json::array();
  for (const LinearModule module : config.target_modules) targets.push_back(LinearModuleName(module));
  const bool quantized = config.base_quantization.kind != Quantization::kNone;
  const int64_t version = !config.pattern.empty() ? kPatternFormatVersion
                          : quantized             ? kQuantizedFormatVersion
                                                  : kFormatVersion;
  Json json = {{"format_version", version},
               {"method", AdapterMethodName(config.method)},
               {"r", config.rank},
               {"alpha", config.alpha},
               {"dropout", config.dropout},
               {"rank_stabilized", config.rank_stabilized},
               {"frozen_a", FrozenFactorName(config.frozen_a)},
               {"target_modules", targets},
               {"seed", config.seed},
               {"index_generator_version", config.index_generator_version},
               {"artifact_dtype", DTypeName(config.artifact_dtype)},
               {"base_model", config.base_model},
               {"base_hash", config.base_hash},
               {"base_config", Json::parse(ToHfConfigJson(config.base_config))}};
  if (quantized) {
    json["base_quantization"] = {{"method", "nf4"}, {"double_quantization", config.base_quantization.double_quantization}};
  }
  if (!config.pattern.empty()) {
    Json single = Json::array();
    for (const ModuleKey& key : config.pattern.single) single.push_back(ToString(key));
    json["target_layers"] = LayerItems(config.pattern.layers);
    json["single_targets"] = std::move(single);
    json["rank_pattern"] = EntriesJson(config.pattern.ranks);
    json["alpha_pattern"] = EntriesJson(config.pattern.alphas);
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

StatusOr<AdapterConfig> ParseAdapterConfig(std::string_view json_text) {
  const Json json = ParseBoundedJson(json_text);
  if (!json.is_object()) {
    return InvalidArgument("ADAPTER_CONFIG_MALFORMED", fmt::format("{} is no JSON object of at most {} levels",
                                                                   kAdapterConfigFile, kMaxJsonDepth));
  }
  SBORA_ASSIGN_OR_RETURN(const int64_t version, GetInt(json, "format_version"));
  if (version < kFormatVersion || version > kPatternFormatVersion) {
    return Unimplemented("ADAPTER_FORMAT_VERSION", fmt::format("{} has format_version {}; this program reads {} to {}",
                                                               kAdapterConfigFile, version, kFormatVersion,
                                                               kPatternFormatVersion));
  }
  AdapterConfig config;
  SBORA_ASSIGN_OR_RETURN(const std::string method, GetString(json, "method"));
  SBORA_ASSIGN_OR_RETURN(config.method, ParseAdapterMethod(method));
  SBORA_ASSIGN_OR_RETURN(config.rank, GetInt(json, "r"));
  SBORA_ASSIGN_OR_RETURN(config.alpha, GetNumber(json, "alpha"));
  SBORA_ASSIGN_OR_RETURN(config.dropout, GetNumber(json, "dropout"));
  SBORA_RETURN_IF_ERROR(ParseVariant(json, config));
  SBORA_ASSIGN_OR_RETURN(config.target_modules, ParseTargets(json));
  if (!json.contains("seed") || !json["seed"].is_number_unsigned()) return BadField("seed", "must be an unsigned integer");
  config.seed = json["seed"].get<uint64_t>();
  SBORA_ASSIGN_OR_RETURN(const int64_t generator, GetInt(json, "index_generator_version"));
  if (generator < 0 || generator > 1'000'000) return BadField("index_generator_version", "is out of range");
  config.index_generator_version = static_cast<int32_t>(generator);
  SBORA_ASSIGN_OR_RETURN(const std::string dtype, GetString(json, "artifact_dtype"));
  SBORA_ASSIGN_OR_RETURN(config.artifact_dtype, ParseDType(dtype));
  if (config.artifact_dtype != DType::kF32 && config.artifact_dtype != DType::kBF16) {
    return BadField("artifact_dtype", "must be F32 or BF16");
  }
  SBORA_ASSIGN_OR_RETURN(config.base_model, GetString(json, "base_model"));
  SBORA_ASSIGN_OR_RETURN(config.base_hash, GetString(json, "base_hash"));
  if (!config.base_hash.empty() && !IsSha256Hex(config.base_hash)) return BadField("base_hash", "is no SHA-256");
  if (!json.contains("base_config")) return BadField("base_config", "is missing");
  SBORA_ASSIGN_OR_RETURN(config.base_config, ParseHfConfig(json["base_config"].dump()));
  SBORA_ASSIGN_OR_RETURN(config.base_quantization, ParseBaseQuantization(json, version));
  if (version == kPatternFormatVersion) SBORA_RETURN_IF_ERROR(ParsePattern(json, config.pattern));
  SBORA_RETURN_IF_ERROR(CheckAdapterConfig(config));
  return config;
}

Status CheckAdapterConfig(const AdapterConfig& config) {
  if (config.method == AdapterMethod::kFull) return OkStatus();
  if (config.target_modules.empty()) {
    return InvalidArgument("TARGET_MODULES_EMPTY", "target_modules is empty; name at least one linear layer")
        .WithViolation("target_modules", "must name at least one of q, k, v, o, gate, up, down");
  }
  for (size_t i = 1; i < config.target_modules.size(); ++i) {
    if (config.target_modules[i] <= config.target_modules[i - 1]) {
      return InvalidArgument("TARGET_MODULE_DUPLICATE",
                             fmt::format("target_modules names {} twice or out of order (q, k, v, o, gate, up, down)",
                                         LinearModuleName(config.target_modules[i])))
          .WithViolation("target_modules", "must be distinct and in the order q, k, v, o, gate, up, down");
    }
  }
  SBORA_RETURN_IF_ERROR(CheckPattern(config.base_config, config.placement()));
  SBORA_RETURN_IF_ERROR(CheckRanks(config));
  SBORA_RETURN_IF_ERROR(CheckAlpha(config.alpha));
  for (const auto& [key, alpha] : config.pattern.alphas) SBORA_RETURN_IF_ERROR(CheckAlpha(alpha));
  if (!(config.dropout >= 0 && config.dropout < 1)) {
    return InvalidArgument("DROPOUT_OUT_OF_RANGE", fmt::format("dropout {} is outside [0, 1)", config.dropout))
        .WithViolation("dropout", "must be at least 0 and below 1");
  }
  if (config.frozen_a != FrozenFactor::kNone && config.method != AdapterMethod::kLora) {
    return InvalidArgument("FROZEN_FACTOR_METHOD",
                           fmt::format("frozen_a {} goes with lora, not with {}", FrozenFactorName(config.frozen_a),
                                       AdapterMethodName(config.method)))
        .WithViolation("frozen_a", "must be none unless the method is lora");
  }
  return OkStatus();
}

int64_t IndexDim(AdapterMethod method, const ModuleShape& shape) {
  SBORA_CHECK(UsesIndices(method), "{} has no indices", AdapterMethodName(method));
  return method == AdapterMethod::kSboraFa ? shape.in_features : shape.out_features;
}

int64_t MaxRank(AdapterMethod method, const ModuleShape& shape) {
  if (UsesIndices(method)) return IndexDim(method, shape);
  return std::min(shape.in_features, shape.out_features);
}

std::string IndexTensorName(int64_t layer, LinearModule module) { return ModulePath(layer, module) + ".sbora_index"; }

std::string FactorTensorName(AdapterMethod method, int64_t layer, LinearModule module) {
  SBORA_CHECK(UsesIndices(method), "{} has no SBoRA factor", AdapterMethodName(method));
  return ModulePath(layer, module) + (method == AdapterMethod::kSboraFa ? ".sbora_B" : ".sbora_A");
}

std::string PeftTensorName(int64_t layer, LinearModule module, std::string_view suffix) {
  return fmt::format("base_model.model.{}.{}", ModulePath(layer, module), suffix);
}

std::vector<ModuleTensor> ModuleTensors(const AdapterForm& form, int64_t layer, LinearModule module,
                                        const ModuleShape& shape) {
  const std::vector<int64_t> a_RI{form.rank, shape.in_features};
  const std::vector<int64_t> b_OR{shape.out_features, form.rank};
  const auto peft = [&](std::string_view suffix) { return PeftTensorName(layer, module, suffix); };
  switch (form.method) {
    case AdapterMethod::kSboraFa:
      return {{TensorRole::kIndex, IndexTensorName(layer, module), {form.rank}, false},
              {TensorRole::kB, FactorTensorName(form.method, layer, module), b_OR, true}};
    case AdapterMethod::kSboraFb:
      return {{TensorRole::kIndex, IndexTensorName(layer, module), {form.rank}, false},
              {TensorRole::kA, FactorTensorName(form.method, layer, module), a_RI, true}};
    case AdapterMethod::kLora:
      return {{TensorRole::kA, peft("lora_A.weight"), a_RI, form.frozen_a == FrozenFactor::kNone},
              {TensorRole::kB, peft("lora_B.weight"), b_OR, true}};
    case AdapterMethod::kDora:
      return {{TensorRole::kA, peft("lora_A.weight"), a_RI, true},
              {TensorRole::kB, peft("lora_B.weight"), b_OR, true},
              {TensorRole::kMagnitude, peft("lora_magnitude_vector"), {shape.out_features}, true}};
    case AdapterMethod::kFull:
      break;
  }
  SBORA_CHECK(false, "{} has no adapter", AdapterMethodName(form.method));
}

std::vector<TensorSpec> ExpectedAdapterTensors(const AdapterConfig& config) {
  std::vector<TensorSpec> specs;
  if (config.method == AdapterMethod::kFull) {
    specs = ExpectedTensors(config.base_config);
    for (TensorSpec& spec : specs) spec.dtype = config.artifact_dtype;
    return specs;
  }
  for (const AdaptedModule& each : config.Modules()) {
    const AdapterForm form{config.method, each.rank, config.frozen_a};
    for (ModuleTensor& tensor : ModuleTensors(form, each.layer, each.module, each.shape)) {
      const DType dtype = tensor.role == TensorRole::kIndex ? DType::kI32 : config.artifact_dtype;
      specs.push_back({std::move(tensor.name), dtype, std::move(tensor.shape)});
    }
  }
  std::sort(specs.begin(), specs.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return specs;
}

int64_t ArtifactBytes(const AdapterConfig& config) {
  const auto bytes = config.method == AdapterMethod::kFull
                         ? ModelShardsBytes(ExpectedAdapterTensors(config))
                         : SafetensorsFileBytes(ExpectedAdapterTensors(config), AdapterMetadata(config));
  SBORA_CHECK(bytes.ok(), "expected tensors of a checked config: {}", bytes.status().ToString());
  return *bytes;
}

std::map<std::string, std::string> AdapterMetadata(const AdapterConfig& config) {
  return {{"format", "pt"}, {"sbora_method", std::string(AdapterMethodName(config.method))},
          {"sbora_base_hash", config.base_hash}};
}

int64_t TrainableParameters(AdapterMethod method, const std::vector<AdaptedModule>& modules, FrozenFactor frozen_a) {
  int64_t count = 0;
  for (const AdaptedModule& each : modules) {
    for (const ModuleTensor& tensor : ModuleTensors({method, each.rank, frozen_a}, each.layer, each.module, each.shape)) {
      if (!tensor.trained) continue;
      count += std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>());
    }
  }
  return count;
}

int64_t TrainableParameters(const ModelConfig& base, AdapterMethod method, int64_t rank,
                            const std::vector<LinearModule>& targets, FrozenFactor frozen_a) {
  if (method == AdapterMethod::kFull) return ParameterCount(base);
  return TrainableParameters(method, AdaptedModules(base, {targets, rank, 0, AdapterPattern()}), frozen_a);
}

StatusOr<AdapterConfig> ReadAdapterConfig(const std::filesystem::path& dir) {
  std::error_code ec;
  const bool full = std::filesystem::exists(dir / kFullConfigFile, ec);
  const std::filesystem::path path = dir / (full ? kFullConfigFile : kAdapterConfigFile);
  if (!std::filesystem::exists(path, ec)) {
    return NotFound("ADAPTER_FILE_MISSING", fmt::format("{} holds no {}", dir.string(), kAdapterConfigFile));
  }
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, 1 << 20));
  SBORA_ASSIGN_OR_RETURN(AdapterConfig config, ParseAdapterConfig(text));
  if (full == (config.method == AdapterMethod::kFull)) return config;
  return InvalidArgument("ADAPTER_CONFIG_MALFORMED", fmt::format("{} says method {}, which has a file of another name",
                                                                 path.string(), AdapterMethodName(config.method)));
}

StatusOr<AdapterFolder> AdapterFolder::Open(const std::filesystem::path& dir) {
  SBORA_ASSIGN_OR_RETURN(AdapterConfig config, ReadAdapterConfig(dir));
  if (config.method == AdapterMethod::kFull) {
    return FailedPrecondition("FULL_CHECKPOINT",
                              fmt::format("{} holds no adapter: full fine-tuning leaves a whole checkpoint, which is used as "
                                          "a model is", dir.string()));
  }
  std::error_code ec;
  if (!std::filesystem::exists(dir / kAdapterModelFile, ec)) {
    return NotFound("ADAPTER_FILE_MISSING", fmt::format("{} holds no {}", dir.string(), kAdapterModelFile));
  }
  SBORA_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(dir / kAdapterModelFile));
  const auto expected = ExpectedAdapterTensors(config);
  const auto mismatch = [&](std::string what) {
    return InvalidArgument("ADAPTER_TENSOR_MISMATCH", fmt::format("{}: {}", (dir / kAdapterModelFile).string(), what));
  };
  if (expected.size() != file.tensors().size()) {
    return mismatch(fmt::format("{} tensors, the config implies {}", file.tensors().size(), expected.size()));
  }
  for (const TensorSpec& spec : expected) {
    const auto view = file.Tensor(spec.name);
    if (!view.ok() || view->shape != spec.shape || view->dtype != spec.dtype) {
      return mismatch(fmt::format("tensor \"{}\" must be {} [{}]", spec.name, DTypeName(spec.dtype),
                                  fmt::join(spec.shape, ", ")));
    }
  }
  AdapterFolder folder(std::move(config), std::move(file));
  if (!UsesIndices(folder.config_.method)) return folder;
  for (const AdaptedModule& each : folder.config_.Modules()) {
    SBORA_ASSIGN_OR_RETURN(const auto indices, folder.Indices(each.layer, each.module));
    SBORA_RETURN_IF_ERROR(
        CheckIndices(indices, ModulePath(each.layer, each.module), IndexDim(folder.config_.method, each.shape)));
  }
  return folder;
}

StatusOr<std::vector<int32_t>> AdapterFolder::Indices(int64_t layer, LinearModule module) const {
  SBORA_ASSIGN_OR_RETURN(const TensorView view, file_.Tensor(IndexTensorName(layer, module)));
  std::vector<int32_t> indices(static_cast<size_t>(view.elements()));
  if (!indices.empty()) std::memcpy(indices.data(), view.data.data(), view.data.size());
  return indices;
}

StatusOr<std::vector<float>> AdapterFolder::Floats(std::string_view tensor_name) const {
  SBORA_ASSIGN_OR_RETURN(const TensorView view, file_.Tensor(tensor_name));
  std::vector<float> values(static_cast<size_t>(view.elements()));
  SBORA_RETURN_IF_ERROR(ToFloat(view.dtype, view.data, values));
  return values;
}

}  // namespace sbora::core
