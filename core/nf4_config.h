/// The config.json of a model in NF4 (core/nf4_model.h), and of a model of either form.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"
#include "core/adapter.h"
#include "core/model_config.h"

namespace sbora::core {

/// Raised when the same base would become other bytes: a part of every key under which such a folder is kept.
inline constexpr int64_t kNf4FormatVersion = 1;
/// Of a model with adapters merged in.
inline constexpr int64_t kNf4MergedFormatVersion = 2;
inline constexpr int64_t kNf4BlockElements = 64;
inline constexpr int64_t kNf4GroupBlocks = 256;

struct Nf4Config {
  ModelConfig model;
  bool double_quantization = true;
  std::string base_hash;         ///< ModelFolder::ComputeBaseHash of the plain base that was quantised
  std::string merged_hash = {};  ///< Nf4ModelFolder::ComputeHash with adapters merged in; empty for a base

  bool merged() const { return !merged_hash.empty(); }
  /// What an adapter trained on this model names as its base_hash: of a base the plain base's, since anybody can make
  /// the one out of the other; of a merged model its own.
  const std::string& identity() const { return merged() ? merged_hash : base_hash; }
  BaseQuantization held_as() const { return {.kind = Quantization::kNf4, .double_quantization = double_quantization}; }
  bool operator==(const Nf4Config&) const = default;
};

/// The text of config.json, and back. ParseNf4Config(ToJson(c)) == c.
std::string ToJson(const Nf4Config& config);
/// Errors: those of ParseHfConfig; INVALID_ARGUMENT NF4_CONFIG_MALFORMED naming the field (also for a plain model's
/// config); UNIMPLEMENTED NF4_FORMAT for another format version or other block sizes.
StatusOr<Nf4Config> ParseNf4Config(std::string_view json_text);
/// True for the text of a config.json that says it is ours and in NF4, whole or not.
bool IsNf4Config(std::string_view json_text);

/// A model's shapes, and how its own files hold the weights.
struct ModelForm {
  ModelConfig config;
  BaseQuantization held_as = {};
};
/// Of a plain model or one in NF4. Errors: those of ParseHfConfig and ParseNf4Config.
StatusOr<ModelForm> ParseModelForm(std::string_view json_text);

}  // namespace sbora::core
