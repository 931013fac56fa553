#include "core/model_config.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/status_macros.h"
#include "core/bounded_json.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxExtent = int64_t{1} << 24;  // keeps every product of extents inside 63 bits

Status BadField(std::string_view field, std::string_view what) {
  return InvalidArgument("CONFIG_MALFORMED", fmt::format("config.json: \"{}\" {}", field, what))
      .WithViolation(field, std::string(what));
}

bool Present(const Json& object, const char* key) { return object.contains(key) && !object[key].is_null(); }

StatusOr<int64_t> PositiveInt(const Json& object, const char* key) {
  if (!Present(object, key)) return BadField(key, "is missing");
  const Json& value = object[key];
  if (!value.is_number_integer() || value.get<double>() < 1 || value.get<double>() > static_cast<double>(kMaxExtent)) {
    return BadField(key, fmt::format("must be an integer in [1, {}]", kMaxExtent));
  }
  return value.get<int64_t>();
}

StatusOr<int64_t> PositiveIntOr(const Json& object, const char* key, int64_t fallback) {
  if (!Present(object, key)) return fallback;
  return PositiveInt(object, key);
}

StatusOr<double> PositiveFloatOr(const Json& object, const char* key, double fallback) {
  if (!Present(object, key)) return fallback;
  const Json& value = object[key];
  if (!value.is_number() || !(value.get<double>() > 0) || !std::isfinite(value.get<double>())) {
    return BadField(key, "must be a positive number");
  }
  return value.get<double>();
}

StatusOr<bool> BoolOr(const Json& object, const char* key, bool fallback) {
  if (!Present(object, key)) return fallback;
  if (!object[key].is_boolean()) return BadField(key, "must be true or false");
  return object[key].get<bool>();
}

/// A token id or a list of them; -1 (LLaMA-1's pad token) counts as none.
StatusOr<std::vector<int64_t>> TokenIds(const Json& object, const char* key, int64_t vocab_size) {
  std::vector<int64_t> ids;
  if (!Present(object, key)) return ids;
  const Json list = object[key].is_array() ? object[key] : Json::array({object[key]});
  for (const Json& id : list) {
    if (!id.is_number_integer()) return BadField(key, "must be a token id or a list of them");
    if (id.get<double>() == -1) continue;
    if (id.get<double>() < 0 || id.get<double>() >= static_cast<double>(vocab_size)) {
      return BadField(key, fmt::format("names token {}, outside [0, {})", id.dump(), vocab_size));
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

/// What would be computed differently from the original is refused here.
Status CheckArchitecture(const Json& json) {
  const std::string type = Present(json, "model_type") && json["model_type"].is_string() ? json["model_type"] : "(none)";
  std::string architecture = type;
  if (Present(json, "architectures") && json["architectures"].is_array() && !json["architectures"].empty() &&
      json["architectures"][0].is_string()) {
    architecture = json["architectures"][0];
  }
  if (Present(json, "sliding_window")) {
    return Unimplemented("SLIDING_WINDOW_UNSUPPORTED",
                         fmt::format("config.json: {} uses a sliding window of {} tokens; only full attention is "
                                     "supported", architecture.substr(0, 80), json["sliding_window"].dump()));
  }
  if (type != "llama" || (architecture != "llama" && architecture != "LlamaForCausalLM" && architecture != "LlamaModel")) {
    return Unimplemented("ARCHITECTURE_UNSUPPORTED",
                         fmt::format("config.json: architecture {} (model_type {}) is not supported; LlamaForCausalLM "
                                     "(LLaMA 1, 2, 3, 3.1, 3.2, SmolLM2, TinyLlama) is",
                                     architecture.substr(0, 80), type.substr(0, 80)))
        .WithMetadata("architecture", architecture.substr(0, 80));
  }
  for (const auto& [key, reason] : {std::pair{"attention_bias", "ATTENTION_BIAS_UNSUPPORTED"},
                                    std::pair{"mlp_bias", "MLP_BIAS_UNSUPPORTED"}}) {
    SBORA_ASSIGN_OR_RETURN(const bool bias, BoolOr(json, key, false));
    if (bias) return Unimplemented(reason, fmt::format("config.json: {}=true; linear layers with bias are not supported", key));
  }
  if (Present(json, "hidden_act") && json["hidden_act"] != "silu") {
    return Unimplemented("ACTIVATION_UNSUPPORTED", fmt::format("config.json: hidden_act {} is not supported; silu is",
                                                               json["hidden_act"].dump().substr(0, 80)));
  }
  if (Present(json, "quantization_config")) {
    return Unimplemented("QUANTIZED_CHECKPOINT_UNSUPPORTED",
                         "config.json: the checkpoint is quantised (quantization_config); import the original weights");
  }
  SBORA_ASSIGN_OR_RETURN(const double rotary, PositiveFloatOr(json, "partial_rotary_factor", 1.0));
  if (rotary != 1.0) {
    return Unimplemented("ROPE_SCALING_UNSUPPORTED", "config.json: partial_rotary_factor other than 1 is not supported");
  }
  return OkStatus();
}

StatusOr<RopeScaling> ParseScaling(const Json& scaling) {
  RopeScaling result;
  const char* key = Present(scaling, "rope_type") ? "rope_type" : "type";
  if (!Present(scaling, key)) return result;
  if (!scaling[key].is_string()) return BadField("rope_type", "must be a string");
  const std::string type = scaling[key];
  if (type == "default") return result;
  if (type != "linear" && type != "llama3") {
    return Unimplemented("ROPE_SCALING_UNSUPPORTED",
                         fmt::format("config.json: RoPE scaling \"{}\" is not supported; default, linear and llama3 are",
                                     type.substr(0, 80)));
  }
  result.type = type == "linear" ? RopeScalingType::kLinear : RopeScalingType::kLlama3;
  if (!Present(scaling, "factor")) return BadField("factor", "is missing from the RoPE scaling");
  SBORA_ASSIGN_OR_RETURN(result.factor, PositiveFloatOr(scaling, "factor", 1.0));
  if (result.type == RopeScalingType::kLinear) return result;
  for (const char* needed : {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    if (!Present(scaling, needed)) return BadField(needed, "is missing from the llama3 RoPE scaling");
  }
  SBORA_ASSIGN_OR_RETURN(result.low_freq_factor, PositiveFloatOr(scaling, "low_freq_factor", 1.0));
  SBORA_ASSIGN_OR_RETURN(result.high_freq_factor, PositiveFloatOr(scaling, "high_freq_factor", 4.0));
  SBORA_ASSIGN_OR_RETURN(result.original_max_position_embeddings,
                         PositiveInt(scaling, "original_max_position_embeddings"));
  if (result.high_freq_factor <= result.low_freq_factor) return BadField("high_freq_factor", "must exceed low_freq_factor");
  return result;
}

Status ParseRope(const Json& json, ModelConfig& config) {
  SBORA_ASSIGN_OR_RETURN(config.rope_theta, PositiveFloatOr(json, "rope_theta", 10000.0));
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!Present(json, key)) continue;
    if (!json[key].is_object()) return BadField(key, "must be an object");
    SBORA_ASSIGN_OR_RETURN(config.rope_theta, PositiveFloatOr(json[key], "rope_theta", config.rope_theta));
    SBORA_ASSIGN_OR_RETURN(config.rope_scaling, ParseScaling(json[key]));
    return OkStatus();
  }
  return OkStatus();
}

StatusOr<DType> ParseTorchDType(const Json& json) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!Present(json, key)) continue;
    if (json[key] == "float32") return DType::kF32;
    if (json[key] == "float16") return DType::kF16;
    if (json[key] == "bfloat16") return DType::kBF16;
    return BadField(key, fmt::format("is {}; float32, float16 and bfloat16 are supported", json[key].dump().substr(0, 80)));
  }
  return DType::kF32;
}

Status CheckConsistency(const ModelConfig& config) {
  const auto inconsistent = [](std::string what) {
    return InvalidArgument("CONFIG_INCONSISTENT", fmt::format("config.json: {}", what));
  };
  if (config.num_heads % config.num_kv_heads != 0) {
    return inconsistent(fmt::format("num_attention_heads={} is no multiple of num_key_value_heads={}", config.num_heads,
                                    config.num_kv_heads));
  }
  if (config.head_dim % 2 != 0) return inconsistent(fmt::format("head_dim={} is odd; RoPE needs pairs", config.head_dim));
  // Limits that no LLaMA comes near: a lying config must not make later code allocate without bound.
  if (config.num_layers > 4096 || config.hidden_size > (1 << 20) || config.num_heads * config.head_dim > (1 << 20) ||
      config.intermediate_size > (1 << 22)) {
    return inconsistent("layers, hidden, heads x head_dim or intermediate size exceed 4096, 2^20, 2^20, 2^22");
  }
  return OkStatus();
}

}  // namespace

StatusOr<ModelConfig> ParseHfConfig(std::string_view json_text) {
  if (json_text.size() > (1u << 20)) return InvalidArgument("CONFIG_MALFORMED", "config.json exceeds 1 MiB");
  const Json json = ParseBoundedJson(json_text);
  if (!json.is_object()) {
    return InvalidArgument("CONFIG_MALFORMED",
                           fmt::format("config.json is no JSON object of at most {} levels", kMaxJsonDepth));
  }
  SBORA_RETURN_IF_ERROR(CheckArchitecture(json));
  ModelConfig config;
  SBORA_ASSIGN_OR_RETURN(config.hidden_size, PositiveInt(json, "hidden_size"));
  SBORA_ASSIGN_OR_RETURN(config.num_layers, PositiveInt(json, "num_hidden_layers"));
  SBORA_ASSIGN_OR_RETURN(config.num_heads, PositiveInt(json, "num_attention_heads"));
  SBORA_ASSIGN_OR_RETURN(config.num_kv_heads, PositiveIntOr(json, "num_key_value_heads", config.num_heads));
  if (!Present(json, "head_dim") && config.hidden_size % config.num_heads != 0) {
    return InvalidArgument("CONFIG_INCONSISTENT", fmt::format("config.json: hidden_size={} is no multiple of {} heads, and "
                                                              "head_dim is not given", config.hidden_size,
                                                              config.num_heads));
  }
  SBORA_ASSIGN_OR_RETURN(config.head_dim, PositiveIntOr(json, "head_dim", config.hidden_size / config.num_heads));
  SBORA_ASSIGN_OR_RETURN(config.intermediate_size, PositiveInt(json, "intermediate_size"));
  SBORA_ASSIGN_OR_RETURN(config.vocab_size, PositiveInt(json, "vocab_size"));
  SBORA_ASSIGN_OR_RETURN(config.max_position_embeddings, PositiveIntOr(json, "max_position_embeddings", 2048));
  SBORA_ASSIGN_OR_RETURN(config.rms_norm_eps, PositiveFloatOr(json, "rms_norm_eps", 1e-6));
  SBORA_ASSIGN_OR_RETURN(config.tie_word_embeddings, BoolOr(json, "tie_word_embeddings", false));
  SBORA_ASSIGN_OR_RETURN(config.dtype, ParseTorchDType(json));
  SBORA_RETURN_IF_ERROR(ParseRope(json, config));
  SBORA_ASSIGN_OR_RETURN(config.eos_token_ids, TokenIds(json, "eos_token_id", config.vocab_size));
  SBORA_ASSIGN_OR_RETURN(const auto bos, TokenIds(json, "bos_token_id", config.vocab_size));
  SBORA_ASSIGN_OR_RETURN(const auto pad, TokenIds(json, "pad_token_id", config.vocab_size));
  if (!bos.empty()) config.bos_token_id = bos[0];
  if (!pad.empty()) config.pad_token_id = pad[0];
  SBORA_RETURN_IF_ERROR(CheckConsistency(config));
  return config;
}

std::string ToHfConfigJson(const ModelConfig& config) {
  const char* dtype = config.dtype == DType::kBF16 ? "bfloat16" : config.dtype == DType::kF16 ? "float16" : "float32";
  Json json = {
      {"architectures", {"LlamaForCausalLM"}},
      {"model_type", "llama"},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"mlp_bias", false},
      {"hidden_act", "silu"},
      {"hidden_size", config.hidden_size},
      {"num_hidden_layers", config.num_layers},
      {"num_attention_heads", config.num_heads},
      {"num_key_value_heads", config.num_kv_heads},
      {"head_dim", config.head_dim},
      {"intermediate_size", config.intermediate_size},
      {"vocab_size", config.vocab_size},
      {"max_position_embeddings", config.max_position_embeddings},
      {"rms_norm_eps", config.rms_norm_eps},
      {"rope_theta", config.rope_theta},
      {"rope_scaling", nullptr},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"torch_dtype", dtype},
      {"initializer_range", 0.02},
      {"use_cache", true},
  };
  if (config.rope_scaling.type != RopeScalingType::kNone) {
    const bool llama3 = config.rope_scaling.type == RopeScalingType::kLlama3;
    json["rope_scaling"] = {{"rope_type", llama3 ? "llama3" : "linear"}, {"factor", config.rope_scaling.factor}};
    if (llama3) {
      json["rope_scaling"]["low_freq_factor"] = config.rope_scaling.low_freq_factor;
      json["rope_scaling"]["high_freq_factor"] = config.rope_scaling.high_freq_factor;
      json["rope_scaling"]["original_max_position_embeddings"] = config.rope_scaling.original_max_position_embeddings;
    }
  }
  json["bos_token_id"] = config.bos_token_id ? Json(*config.bos_token_id) : Json();
  json["pad_token_id"] = config.pad_token_id ? Json(*config.pad_token_id) : Json();
  json["eos_token_id"] = Json();
  if (config.eos_token_ids.size() == 1) json["eos_token_id"] = config.eos_token_ids[0];
  if (config.eos_token_ids.size() > 1) json["eos_token_id"] = config.eos_token_ids;
  return json.dump(2) + "\n";
}

std::string_view LinearModuleName(LinearModule module) {
  switch (module) {
    case LinearModule::kQ: return "q_proj";
    case LinearModule::kK: return "k_proj";
    case LinearModule::kV: return "v_proj";
    case LinearModule::kO: return "o_proj";
    case LinearModule::kGate: return "gate_proj";
    case LinearModule::kUp: return "up_proj";
    case LinearModule::kDown: return "down_proj";
  }
  SBORA_CHECK(false, "linear module {} is outside the enum", static_cast<int>(module));
}

StatusOr<LinearModule> ParseLinearModule(std::string_view name) {
  for (const LinearModule module : kAllLinearModules) {
    const std::string_view full = LinearModuleName(module);
    if (name == full || name == full.substr(0, full.find('_'))) return module;
  }
  return InvalidArgument("TARGET_MODULE_UNKNOWN",
                         fmt::format("target module \"{}\" is unknown; q_proj, k_proj, v_proj, o_proj, gate_proj, "
                                     "up_proj and down_proj are known", name.substr(0, 80)))
      .WithViolation("target_modules", fmt::format("\"{}\" is not a linear layer of a LLaMA block", name.substr(0, 80)));
}

std::string ModulePath(int64_t layer, LinearModule module) {
  const bool mlp = module == LinearModule::kGate || module == LinearModule::kUp || module == LinearModule::kDown;
  return fmt::format("model.layers.{}.{}.{}", layer, mlp ? "mlp" : "self_attn", LinearModuleName(module));
}

ModuleShape LinearModuleShape(const ModelConfig& config, LinearModule module) {
  const int64_t query = config.num_heads * config.head_dim;
  const int64_t key = config.num_kv_heads * config.head_dim;
  switch (module) {
    case LinearModule::kQ: return {query, config.hidden_size};
    case LinearModule::kK:
    case LinearModule::kV: return {key, config.hidden_size};
    case LinearModule::kO: return {config.hidden_size, query};
    case LinearModule::kGate:
    case LinearModule::kUp: return {config.intermediate_size, config.hidden_size};
    case LinearModule::kDown: return {config.hidden_size, config.intermediate_size};
  }
  SBORA_CHECK(false, "linear module {} is outside the enum", static_cast<int>(module));
}

std::vector<TensorSpec> ExpectedTensors(const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  const auto add = [&](std::string name, std::vector<int64_t> shape) {
    specs.push_back({.name = std::move(name), .dtype = config.dtype, .shape = std::move(shape)});
  };
  add("model.embed_tokens.weight", {config.vocab_size, config.hidden_size});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const auto linear = [&](LinearModule module) {
      const ModuleShape shape = LinearModuleShape(config, module);
      add(ModulePath(layer, module) + ".weight", {shape.out_features, shape.in_features});
    };
    add(fmt::format("model.layers.{}.input_layernorm.weight", layer), {config.hidden_size});
    for (const LinearModule m : {LinearModule::kQ, LinearModule::kK, LinearModule::kV, LinearModule::kO}) linear(m);
    add(fmt::format("model.layers.{}.post_attention_layernorm.weight", layer), {config.hidden_size});
    for (const LinearModule m : {LinearModule::kGate, LinearModule::kUp, LinearModule::kDown}) linear(m);
  }
  add("model.norm.weight", {config.hidden_size});
  if (!config.tie_word_embeddings) add("lm_head.weight", {config.vocab_size, config.hidden_size});
  return specs;
}

int64_t ParameterCount(const ModelConfig& config) {
  int64_t count = 0;
  for (const TensorSpec& spec : ExpectedTensors(config)) {
    int64_t elements = 1;
    for (const int64_t extent : spec.shape) elements *= extent;
    count += elements;
  }
  return count;
}

}  // namespace sbora::core
