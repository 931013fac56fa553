#include "data/text_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "core/bounded_json.h"
#include "core/nf4_config.h"

namespace sbora::data {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int64_t kMaxTokenizerBytes = 256 << 20;

/// A special token is a string or an object with "content".
std::string TokenText(const Json& config, const char* key) {
  const auto it = config.find(key);
  if (it == config.end()) return {};
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object() && it->contains("content") && (*it)["content"].is_string()) return (*it)["content"];
  return {};
}

/// The template, or the one called "default" of a list of named ones.
std::string TemplateText(const Json& config) {
  const auto it = config.find("chat_template");
  if (it == config.end()) return {};
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) return {};
  for (const Json& entry : *it) {
    if (entry.is_object() && entry.value("name", Json()) == "default" && entry.value("template", Json()).is_string()) {
      return entry["template"];
    }
  }
  return {};
}

StatusOr<Json> ReadTokenizerConfig(const fs::path& path) {
  std::error_code ec;
  if (!fs::exists(path, ec)) return Json::object();
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, 16 << 20));
  Json json = core::ParseBoundedJson(text);
  if (!json.is_object()) {
    return InvalidArgument("TOKENIZER_CONFIG_MALFORMED",
                           fmt::format("{} is no JSON object of at most {} levels", path.string(), core::kMaxJsonDepth));
  }
  return json;
}

Status ResolveEnd(const core::ModelConfig& config, const fs::path& dir, TextModel& model) {
  const auto add = [&](int32_t id) {
    if (std::find(model.eos_ids.begin(), model.eos_ids.end(), id) == model.eos_ids.end()) model.eos_ids.push_back(id);
  };
  if (!model.eos_token.empty()) {
    if (const auto id = model.tokenizer->TokenToId(model.eos_token)) add(*id);
  }
  for (const int64_t id : config.eos_token_ids) add(static_cast<int32_t>(id));
  if (model.eos_ids.empty()) {
    return InvalidArgument("EOS_TOKEN_MISSING",
                           fmt::format("{}: neither tokenizer_config.json nor config.json names an end token; without one "
                                       "a model cannot learn to stop", dir.string()));
  }
  if (model.eos_token.empty()) model.eos_token = model.tokenizer->IdToToken(model.eos_ids[0]).value_or("");
  return OkStatus();
}

}  // namespace

StatusOr<TextModel> TextModel::Open(const fs::path& model_dir) {
  TextModel model;
  SBORA_ASSIGN_OR_RETURN(const std::string config_text, ReadFile(model_dir / "config.json", 1 << 20));
  SBORA_ASSIGN_OR_RETURN(const core::ModelForm form, core::ParseModelForm(config_text));
  const core::ModelConfig& config = form.config;
  SBORA_ASSIGN_OR_RETURN(const std::string tokenizer_json, ReadFile(model_dir / "tokenizer.json", kMaxTokenizerBytes));
  SBORA_ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::FromJson(tokenizer_json));
  SBORA_ASSIGN_OR_RETURN(const Json tokenizer_config, ReadTokenizerConfig(model_dir / "tokenizer_config.json"));
  model.vocab_size = config.vocab_size;
  model.bos_token = TokenText(tokenizer_config, "bos_token");
  model.eos_token = TokenText(tokenizer_config, "eos_token");
  if (model.bos_token.empty() && config.bos_token_id) {
    model.bos_token = model.tokenizer->IdToToken(static_cast<int32_t>(*config.bos_token_id)).value_or("");
  }
  SBORA_RETURN_IF_ERROR(ResolveEnd(config, model_dir, model));
  std::string template_text = TemplateText(tokenizer_config);
  std::error_code ec;
  if (fs::exists(model_dir / "chat_template.jinja", ec)) {
    SBORA_ASSIGN_OR_RETURN(template_text, ReadFile(model_dir / "chat_template.jinja", 1 << 20));
  }
  if (!template_text.empty()) {
    // A fixed date: templates that print today's would give other tokens, and other caches, every day.
    SBORA_ASSIGN_OR_RETURN(model.chat_template, ChatTemplate::FromSource(template_text, {.fixed_time_unix_seconds = 0}));
  }
  // No tokenizer id may point beyond the embedding: training would read outside of it.
  if (model.tokenizer->vocab_size() > config.vocab_size && model.tokenizer->IdToToken(static_cast<int32_t>(config.vocab_size))) {
    return InvalidArgument("TOKENIZER_VOCAB_MISMATCH",
                           fmt::format("{}: the tokenizer has {} tokens, the model's embedding {}", model_dir.string(),
                                       model.tokenizer->vocab_size(), config.vocab_size));
  }
  Sha256 hash;
  for (const std::string_view part : {std::string_view(tokenizer_json), std::string_view(model.bos_token),
                                      std::string_view(model.eos_token), std::string_view(template_text)}) {
    hash.Update(fmt::format("{}:", part.size()));
    hash.Update(part);
  }
  hash.Update(fmt::format("{}", fmt::join(model.eos_ids, ",")));
  model.fingerprint = hash.FinishHex();
  return model;
}

}  // namespace sbora::data
