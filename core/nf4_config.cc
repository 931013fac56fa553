#include "core/nf4_config.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/bounded_json.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;

constexpr const char* kQuantizationKey = "quantization_config";
constexpr const char* kMethodName = "sbora_nf4";
constexpr const char* kMergedHash = "merged_hash";

Status Malformed(std::string_view field, std::string_view what) {
  return InvalidArgument("NF4_CONFIG_MALFORMED", fmt::format("config.json: {}.{} {}", kQuantizationKey, field, what));
}

StatusOr<int64_t> Integer(const Json& json, const char* field) {
  const Json found = json.value(field, Json());
  if (!found.is_number_integer()) return Malformed(field, "must be an integer");
  return found.get<int64_t>();
}

Status RequireFormat(const Json& json, const char* field, int64_t value) {
  SBORA_ASSIGN_OR_RETURN(const int64_t found, Integer(json, field));
  if (found == value) return OkStatus();
  return Unimplemented("NF4_FORMAT", fmt::format("config.json: {}.{} is {}; this program reads {}", kQuantizationKey,
                                                 field, found, value));
}

StatusOr<std::string> Hash(const Json& json, const char* field) {
  const Json hash = json.value(field, Json());
  if (!hash.is_string() || !IsSha256Hex(hash.get<std::string>())) return Malformed(field, "is no SHA-256");
  return hash.get<std::string>();
}

Json QuantizationOf(std::string_view json_text) {
  const Json json = ParseBoundedJson(json_text);
  if (!json.is_object()) return {};
  return json.value(kQuantizationKey, Json());
}

}  // namespace

std::string ToJson(const Nf4Config& config) {
  Json json = Json::parse(ToHfConfigJson(config.model));
  json[kQuantizationKey] = {{"quant_method", kMethodName},
                            {"format_version", config.merged() ? kNf4MergedFormatVersion : kNf4FormatVersion},
                            {"block_size", kNf4BlockElements},
                            {"double_quantization", config.double_quantization},
                            {"group_size", kNf4GroupBlocks},
                            {"base_hash", config.base_hash}};
  if (config.merged()) json[kQuantizationKey][kMergedHash] = config.merged_hash;
  return json.dump(2) + "\n";
}

StatusOr<Nf4Config> ParseNf4Config(std::string_view json_text) {
  const Json quantization = QuantizationOf(json_text);
  if (!quantization.is_object()) {
    return InvalidArgument("NF4_CONFIG_MALFORMED", fmt::format("config.json holds no {}: this is no NF4 base",
                                                               kQuantizationKey));
  }
  if (quantization.value("quant_method", Json()) != kMethodName) return Malformed("quant_method", "must be sbora_nf4");
  SBORA_ASSIGN_OR_RETURN(const int64_t version, Integer(quantization, "format_version"));
  if (version != kNf4MergedFormatVersion) {
    SBORA_RETURN_IF_ERROR(RequireFormat(quantization, "format_version", kNf4FormatVersion));
  }
  SBORA_RETURN_IF_ERROR(RequireFormat(quantization, "block_size", kNf4BlockElements));
  SBORA_RETURN_IF_ERROR(RequireFormat(quantization, "group_size", kNf4GroupBlocks));
  Nf4Config config;
  const Json nested = quantization.value("double_quantization", Json());
  if (!nested.is_boolean()) return Malformed("double_quantization", "must be true or false");
  config.double_quantization = nested.get<bool>();
  SBORA_ASSIGN_OR_RETURN(config.base_hash, Hash(quantization, "base_hash"));
  if (version == kNf4MergedFormatVersion) {
    SBORA_ASSIGN_OR_RETURN(config.merged_hash, Hash(quantization, kMergedHash));
  }
  Json plain = ParseBoundedJson(json_text);
  plain.erase(kQuantizationKey);
  SBORA_ASSIGN_OR_RETURN(config.model, ParseHfConfig(plain.dump()));
  return config;
}

bool IsNf4Config(std::string_view json_text) {
  const Json quantization = QuantizationOf(json_text);
  return quantization.is_object() && quantization.value("quant_method", Json()) == kMethodName;
}

StatusOr<ModelForm> ParseModelForm(std::string_view json_text) {
  if (!IsNf4Config(json_text)) {
    SBORA_ASSIGN_OR_RETURN(ModelConfig config, ParseHfConfig(json_text));
    return ModelForm{.config = std::move(config)};
  }
  SBORA_ASSIGN_OR_RETURN(Nf4Config config, ParseNf4Config(json_text));
  return ModelForm{.config = std::move(config.model), .held_as = config.held_as()};
}

}  // namespace sbora::core
