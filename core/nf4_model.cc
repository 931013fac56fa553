#include "core/nf4_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/manifest.h"

namespace sbora::core {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr const char* kQuantizationKey = "quantization_config";
constexpr const char* kMethodName = "sbora_nf4";
constexpr const char* kCodes = "nf4_codes";
constexpr const char* kScales = "nf4_scales";
constexpr const char* kScaleCodes = "nf4_scale_codes";
constexpr const char* kGroupScales = "nf4_group_scales";
constexpr const char* kOffset = "nf4_offset";

Status Malformed(std::string_view field, std::string_view what) {
  return InvalidArgument("NF4_CONFIG_MALFORMED", fmt::format("config.json: {}.{} {}", kQuantizationKey, field, what));
}

int64_t CeilDiv(int64_t value, int64_t divisor) { return value / divisor + (value % divisor == 0 ? 0 : 1); }

std::string PartName(std::string_view module, const char* part) { return fmt::format("{}.{}", module, part); }

/// "model.layers.0.self_attn.q_proj" when `name` is that linear layer's weight.
std::optional<std::string> LinearModuleOf(const std::string& name) {
  constexpr std::string_view kSuffix = ".weight";
  if (!name.starts_with("model.layers.") || !name.ends_with(kSuffix)) return std::nullopt;
  const std::string module = name.substr(0, name.size() - kSuffix.size());
  for (const LinearModule linear : kAllLinearModules) {
    if (module.ends_with(fmt::format(".{}", LinearModuleName(linear)))) return module;
  }
  return std::nullopt;
}

/// What stands in the place of one linear weight, in the order of the file.
std::vector<TensorSpec> PartSpecs(const std::string& module, int64_t elements, bool double_quantization) {
  const int64_t blocks = CeilDiv(elements, kNf4BlockElements);
  std::vector<TensorSpec> specs = {{PartName(module, kCodes), DType::kU8, {CeilDiv(elements, 2)}}};
  if (!double_quantization) {
    specs.push_back({PartName(module, kScales), DType::kF32, {blocks}});
    return specs;
  }
  specs.push_back({PartName(module, kScaleCodes), DType::kU8, {blocks}});
  specs.push_back({PartName(module, kGroupScales), DType::kF32, {CeilDiv(blocks, kNf4GroupBlocks)}});
  specs.push_back({PartName(module, kOffset), DType::kF32, {1}});
  return specs;
}

template <typename T>
std::span<const std::byte> Bytes(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

template <typename T>
StatusOr<std::vector<T>> CopyOf(const Nf4ModelFolder& folder, const std::string& name) {
  SBORA_ASSIGN_OR_RETURN(const TensorView view, folder.Tensor(name));
  std::vector<T> values(view.data.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), view.data.data(), values.size() * sizeof(T));
  return values;
}

Status CheckRange(const std::string& name, const std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && values[i] >= 0) continue;
    return InvalidArgument("NF4_SCALE_RANGE", fmt::format("tensor \"{}\": element {} is {}, must be finite and not "
                                                          "negative", name, i, values[i]));
  }
  return OkStatus();
}

/// Feeds WriteModelShards: a weight is quantised when its codes are asked for, and kept until its other parts were.
class Nf4Source {
 public:
  Nf4Source(const ModelFolder& base, const Nf4Quantizer& quantize, bool double_quantization)
      : base_(base), quantize_(quantize), double_quantization_(double_quantization) {}

  StatusOr<std::vector<TensorSpec>> Specs() const {
    std::vector<TensorSpec> specs;
    for (TensorSpec& spec : ExpectedTensors(base_.config())) {
      if (const auto module = LinearModuleOf(spec.name)) {
        for (TensorSpec& part : PartSpecs(*module, spec.shape[0] * spec.shape[1], double_quantization_)) {
          specs.push_back(std::move(part));
        }
        continue;
      }
      SBORA_ASSIGN_OR_RETURN(const TensorView view, base_.Tensor(spec.name));
      spec.dtype = view.dtype;
      specs.push_back(std::move(spec));
    }
    return specs;
  }

  Status Append(const TensorSpec& spec, const ByteSink& sink) {
    const size_t dot = spec.name.rfind('.');
    const std::string module = spec.name.substr(0, dot);
    const std::string part = spec.name.substr(dot + 1);
    if (part == kCodes) {
      SBORA_ASSIGN_OR_RETURN(const TensorView weight, base_.Tensor(module + ".weight"));
      auto parts = quantize_(weight);
      if (!parts.ok()) return parts.status().WithContext(fmt::format("quantising {}", weight.name));
      parts_ = *std::move(parts);
      return sink(Bytes(parts_.codes));
    }
    if (part == kScales) return sink(Bytes(parts_.scales));
    if (part == kScaleCodes) return sink(Bytes(parts_.scale_codes));
    if (part == kGroupScales) return sink(Bytes(parts_.group_scales));
    if (part == kOffset) return sink(Bytes(parts_.offset));
    SBORA_ASSIGN_OR_RETURN(const TensorView view, base_.Tensor(spec.name));
    return sink(view.data);
  }

 private:
  const ModelFolder& base_;
  const Nf4Quantizer& quantize_;
  const bool double_quantization_;
  Nf4Parts parts_;
};

}  // namespace

std::string ToJson(const Nf4Config& config) {
  Json json = Json::parse(ToHfConfigJson(config.model));
  json[kQuantizationKey] = {{"quant_method", kMethodName},
                            {"format_version", kNf4FormatVersion},
                            {"block_size", kNf4BlockElements},
                            {"double_quantization", config.double_quantization},
                            {"group_size", kNf4GroupBlocks},
                            {"base_hash", config.base_hash}};
  return json.dump(2) + "\n";
}

StatusOr<Nf4Config> ParseNf4Config(std::string_view json_text) {
  Json json = Json::parse(json_text, nullptr, false);
  if (!json.is_object() || !json.contains(kQuantizationKey) || !json[kQuantizationKey].is_object()) {
    return InvalidArgument("NF4_CONFIG_MALFORMED", fmt::format("config.json holds no {}: this is no NF4 base",
                                                               kQuantizationKey));
  }
  const Json quantization = json[kQuantizationKey];
  json.erase(kQuantizationKey);
  if (quantization.value("quant_method", Json()) != kMethodName) return Malformed("quant_method", "must be sbora_nf4");
  for (const auto& [field, value] : {std::pair{"format_version", kNf4FormatVersion}, {"block_size", kNf4BlockElements},
                                     {"group_size", kNf4GroupBlocks}}) {
    const Json found = quantization.value(field, Json());
    if (!found.is_number_integer()) return Malformed(field, "must be an integer");
    if (found != value) {
      return Unimplemented("NF4_FORMAT", fmt::format("config.json: {}.{} is {}; this program reads {}", kQuantizationKey,
                                                     field, found.dump(), value));
    }
  }
  Nf4Config config;
  const Json nested = quantization.value("double_quantization", Json());
  if (!nested.is_boolean()) return Malformed("double_quantization", "must be true or false");
  config.double_quantization = nested.get<bool>();
  const Json hash = quantization.value("base_hash", Json());
  if (!hash.is_string() || !IsSha256Hex(hash.get<std::string>())) return Malformed("base_hash", "is no SHA-256");
  config.base_hash = hash.get<std::string>();
  SBORA_ASSIGN_OR_RETURN(config.model, ParseHfConfig(json.dump()));
  return config;
}

StatusOr<Nf4Config> WriteNf4Model(const ModelFolder& base, const fs::path& out_dir, const Nf4Quantizer& quantize,
                                  const Nf4WriteOptions& options) {
  SBORA_RETURN_IF_ERROR(RequireEmptyFolder(out_dir));
  const Nf4Config config{
      .model = base.config(),
      .double_quantization = options.double_quantization,
      .base_hash = options.known_base_hash.empty() ? base.ComputeBaseHash() : options.known_base_hash};
  Nf4Source source(base, quantize, options.double_quantization);
  SBORA_ASSIGN_OR_RETURN(const auto specs, source.Specs());
  SBORA_ASSIGN_OR_RETURN(
      auto files, WriteModelShards(out_dir, specs,
                                   [&](const TensorSpec& spec, const ByteSink& sink) { return source.Append(spec, sink); },
                                   {.max_shard_bytes = options.max_shard_bytes, .progress = options.progress,
                                    .cancelled = options.cancelled}));
  for (const SafetensorsFile& shard : base.shards()) shard.Evict();
  SBORA_ASSIGN_OR_RETURN(WrittenFile config_file, WriteSmallFile(out_dir / "config.json", ToJson(config)));
  files.push_back(std::move(config_file));
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  SBORA_RETURN_IF_ERROR(WriteManifest(out_dir, {.files = std::move(files)}));
  return config;
}

StatusOr<Nf4ModelFolder> Nf4ModelFolder::Open(const fs::path& dir, const std::function<void()>& alive) {
  Nf4ModelFolder folder;
  folder.dir_ = dir;
  std::error_code ec;
  if (!fs::exists(dir / "config.json", ec)) {
    return NotFound("MODEL_FILE_MISSING", fmt::format("{} holds no config.json", dir.string()));
  }
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(dir / "config.json", 1 << 20));
  SBORA_ASSIGN_OR_RETURN(folder.config_, ParseNf4Config(text));
  const auto manifest = ReadManifest(dir);
  if (!manifest.ok()) {
    return DataLoss("NF4_DAMAGED", fmt::format("{}: {}", dir.string(), manifest.status().message()));
  }
  SBORA_RETURN_IF_ERROR(VerifyManifest(*manifest, dir, alive));
  SBORA_ASSIGN_OR_RETURN(folder.shards_, OpenShards(dir));
  for (size_t i = 0; i < folder.shards_.size(); ++i) {
    for (const TensorView& view : folder.shards_[i].tensors()) folder.shard_of_tensor_.emplace(view.name, i);
  }
  SBORA_RETURN_IF_ERROR(folder.CheckTensors());
  return folder;
}

Status Nf4ModelFolder::CheckTensors() const {
  const auto mismatch = [&](std::string what) {
    return InvalidArgument("NF4_TENSOR_MISMATCH", fmt::format("{}: {}", dir_.string(), what));
  };
  size_t expected = 0;
  const auto check = [&](const TensorSpec& spec, bool any_weight_dtype) -> Status {
    ++expected;
    const auto view = Tensor(spec.name);
    if (!view.ok()) return mismatch(fmt::format("tensor \"{}\", which config.json implies, is not there", spec.name));
    const bool dtype = any_weight_dtype ? IsWeightDType(view->dtype) : view->dtype == spec.dtype;
    if (view->shape == spec.shape && dtype) return OkStatus();
    return mismatch(fmt::format("tensor \"{}\" is {} [{}], config.json implies {} [{}]", spec.name, DTypeName(view->dtype),
                                fmt::join(view->shape, ", "), any_weight_dtype ? "F32, F16 or BF16" : DTypeName(spec.dtype),
                                fmt::join(spec.shape, ", ")));
  };
  for (const TensorSpec& spec : ExpectedTensors(config_.model)) {
    const auto module = LinearModuleOf(spec.name);
    if (!module) {
      SBORA_RETURN_IF_ERROR(check(spec, true));
      continue;
    }
    for (const TensorSpec& part : PartSpecs(*module, spec.shape[0] * spec.shape[1], config_.double_quantization)) {
      SBORA_RETURN_IF_ERROR(check(part, false));
      if (part.dtype != DType::kF32) continue;
      SBORA_ASSIGN_OR_RETURN(const auto values, CopyOf<float>(*this, part.name));
      SBORA_RETURN_IF_ERROR(CheckRange(part.name, values));
    }
  }
  if (shard_of_tensor_.size() == expected) return OkStatus();
  return mismatch(fmt::format("{} tensors, config.json implies {}", shard_of_tensor_.size(), expected));
}

StatusOr<TensorView> Nf4ModelFolder::Tensor(std::string_view name) const {
  const auto found = shard_of_tensor_.find(name);
  if (found == shard_of_tensor_.end()) {
    return NotFound("TENSOR_NOT_FOUND", fmt::format("{} holds no tensor \"{}\"", dir_.string(), name));
  }
  return shards_[found->second].Tensor(name);
}

StatusOr<Nf4Parts> Nf4ModelFolder::Weight(int64_t layer, LinearModule module) const {
  const std::string path = ModulePath(layer, module);
  Nf4Parts parts;
  SBORA_ASSIGN_OR_RETURN(parts.codes, CopyOf<uint8_t>(*this, PartName(path, kCodes)));
  if (!config_.double_quantization) {
    SBORA_ASSIGN_OR_RETURN(parts.scales, CopyOf<float>(*this, PartName(path, kScales)));
    return parts;
  }
  SBORA_ASSIGN_OR_RETURN(parts.scale_codes, CopyOf<uint8_t>(*this, PartName(path, kScaleCodes)));
  SBORA_ASSIGN_OR_RETURN(parts.group_scales, CopyOf<float>(*this, PartName(path, kGroupScales)));
  SBORA_ASSIGN_OR_RETURN(parts.offset, CopyOf<float>(*this, PartName(path, kOffset)));
  return parts;
}

}  // namespace sbora::core
