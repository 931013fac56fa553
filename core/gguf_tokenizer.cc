// tokenizer.json out of GGUF metadata. GGUF keeps vocabulary and merges but only a NAME of the pre-tokenizer; the
// splitting rules behind the names below are those of the models' own tokenizer.json.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "common/status_macros.h"
#include "core/gguf_import.h"
#include "core/gguf_tokenizer.h"
#include "core/sentencepiece.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;

constexpr const char* kLlama3Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

Json ByteLevel(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json Split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json Sequence(Json steps) { return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}}; }

Json AddedToken(size_t id, const std::string& text, bool special) {
  return {{"id", id},          {"content", text}, {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

Json BosTemplate(const std::string& bos, int64_t id) {
  const Json token = {{"SpecialToken", {{"id", bos}, {"type_id", 0}}}};
  const Json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  return {{"type", "TemplateProcessing"},
          {"single", Json::array({token, a})},
          {"pair", Json::array({token, a, token, b})},
          {"special_tokens", {{bos, {{"id", bos}, {"ids", Json::array({id})}, {"tokens", Json::array({bos})}}}}}};
}

bool ValidUtf8(const Json& value) {
  try {
    (void)value.dump();
    return true;
  } catch (const Json::exception&) {  // the library's only way to say that a string is no UTF-8
    return false;
  }
}

struct Vocabulary {
  const std::vector<std::string>* tokens = nullptr;
  Json vocab = Json::object();
  Json merges = Json::array();
  Json added = Json::array();
};

StatusOr<Vocabulary> ReadVocabulary(const GgufFile& file, const ModelConfig& config) {
  Vocabulary v;
  SBORA_ASSIGN_OR_RETURN(v.tokens, file.Strings("tokenizer.ggml.tokens"));
  SBORA_ASSIGN_OR_RETURN(const auto* merges, file.Strings("tokenizer.ggml.merges"));
  SBORA_ASSIGN_OR_RETURN(const auto* types, file.Ints("tokenizer.ggml.token_type"));
  if (static_cast<int64_t>(v.tokens->size()) > config.vocab_size || types->size() != v.tokens->size()) {
    return InvalidArgument("TOKENIZER_MALFORMED",
                           fmt::format("{} tokens with {} types do not fit {} embeddings", v.tokens->size(), types->size(),
                                       config.vocab_size));
  }
  for (size_t id = 0; id < v.tokens->size(); ++id) {
    const std::string& token = (*v.tokens)[id];
    if ((*types)[id] == kGgufUnusedToken && token == GgufUnusedToken(id)) continue;  // a row without a token
    if (v.vocab.contains(token)) {
      return InvalidArgument("TOKENIZER_MALFORMED", fmt::format("token {} repeats an earlier one", id));
    }
    v.vocab[token] = id;
    const bool special = (*types)[id] == kGgufControlToken;
    if (special || (*types)[id] == kGgufUserDefinedToken) v.added.push_back(AddedToken(id, token, special));
  }
  for (const std::string& merge : *merges) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string::npos || !v.vocab.contains(merge.substr(0, space)) ||
        !v.vocab.contains(merge.substr(space + 1))) {
      return InvalidArgument("TOKENIZER_MALFORMED", fmt::format("merge \"{}\" joins no two tokens", merge.substr(0, 80)));
    }
    v.merges.push_back(merge);
  }
  if (!ValidUtf8(v.vocab) || !ValidUtf8(v.merges)) {
    return InvalidArgument("TOKENIZER_MALFORMED", "a token of the vocabulary is no UTF-8");
  }
  return v;
}

StatusOr<Json> TokenizerConfig(const GgufFile& file, const ModelConfig& config, const std::vector<std::string>& tokens,
                               const Json& added, bool add_bos) {
  const auto text = [&](std::optional<int64_t> id) -> Json {
    return id && *id < static_cast<int64_t>(tokens.size()) ? Json(tokens[static_cast<size_t>(*id)]) : Json();
  };
  Json decoder = Json::object();
  for (Json token : added) {
    const std::string id = std::to_string(token["id"].get<int64_t>());
    token.erase("id");
    decoder[id] = token;
  }
  Json json = {{"tokenizer_class", "PreTrainedTokenizerFast"},
               {"clean_up_tokenization_spaces", false},
               {"add_prefix_space", false},
               {"add_bos_token", add_bos},
               {"model_max_length", config.max_position_embeddings},
               {"bos_token", text(config.bos_token_id)},
               {"pad_token", text(config.pad_token_id)},
               {"added_tokens_decoder", decoder}};
  json["eos_token"] = config.eos_token_ids.empty() ? Json() : text(config.eos_token_ids[0]);
  if (const auto unknown = file.Int("tokenizer.ggml.unknown_token_id"); unknown.ok() && *unknown >= 0) {
    json["unk_token"] = text(*unknown);
  }
  if (file.Has("tokenizer.chat_template")) {
    SBORA_ASSIGN_OR_RETURN(json["chat_template"], file.String("tokenizer.chat_template"));
  }
  return json;
}

StatusOr<bool> BoolOr(const GgufFile& file, std::string_view key, bool fallback) {
  if (!file.Has(key)) return fallback;
  return file.Bool(key);
}

Status CheckNoEnd(const GgufFile& file) {
  SBORA_ASSIGN_OR_RETURN(const bool add_eos, BoolOr(file, "tokenizer.ggml.add_eos_token", false));
  if (!add_eos) return OkStatus();
  return Unimplemented("TOKENIZER_UNSUPPORTED",
                       "the GGUF file adds an end token to every text, which is not supported; "
                       "import the original folder with its tokenizer.json");
}

StatusOr<SentencePieceVocabulary> ReadPieces(const GgufFile& file, const ModelConfig& config) {
  SBORA_ASSIGN_OR_RETURN(const auto* tokens, file.Strings("tokenizer.ggml.tokens"));
  SBORA_ASSIGN_OR_RETURN(const auto* types, file.Ints("tokenizer.ggml.token_type"));
  SBORA_ASSIGN_OR_RETURN(const auto* scores, file.Floats("tokenizer.ggml.scores"));
  if (static_cast<int64_t>(tokens->size()) > config.vocab_size || types->size() != tokens->size() ||
      scores->size() != tokens->size()) {
    return InvalidArgument("TOKENIZER_MALFORMED",
                           fmt::format("{} tokens with {} types and {} scores do not fit {} embeddings", tokens->size(),
                                       types->size(), scores->size(), config.vocab_size));
  }
  SentencePieceVocabulary pieces;
  for (size_t id = 0; id < tokens->size(); ++id) {
    pieces.tokens.push_back((*tokens)[id]);
    pieces.types.push_back(static_cast<int32_t>((*types)[id]));
    pieces.scores.push_back(static_cast<float>((*scores)[id]));
  }
  // Rows without a token come last: a token behind them would have an id of its own.
  while (!pieces.tokens.empty() && pieces.types.back() == kGgufUnusedToken &&
         pieces.tokens.back() == GgufUnusedToken(pieces.tokens.size() - 1)) {
    pieces.tokens.pop_back();
    pieces.types.pop_back();
    pieces.scores.pop_back();
  }
  return pieces;
}

/// Tokenizer model "llama".
StatusOr<TokenizerFiles> SentencePieceFiles(const GgufFile& file, const ModelConfig& config) {
  for (const char* key : {"tokenizer.ggml.merges", "tokenizer.ggml.precompiled_charsmap"}) {
    if (!file.Has(key)) continue;
    return Unimplemented("TOKENIZER_UNSUPPORTED",
                         fmt::format("the GGUF file has a sentencepiece tokenizer with {}; import the "
                                     "original folder with its tokenizer.json",
                                     key));
  }
  SBORA_ASSIGN_OR_RETURN(const SentencePieceVocabulary pieces, ReadPieces(file, config));
  SBORA_RETURN_IF_ERROR(CheckNoEnd(file));
  SentencePieceRules rules;
  rules.order = MergeOrder::kByScore;
  SBORA_ASSIGN_OR_RETURN(rules.prefix_space, BoolOr(file, "tokenizer.ggml.add_space_prefix", true));
  SBORA_ASSIGN_OR_RETURN(rules.add_bos, BoolOr(file, "tokenizer.ggml.add_bos_token", true));
  const auto named = [&](std::optional<int64_t> id) {
    if (id && *id < static_cast<int64_t>(pieces.tokens.size()))
      rules.special.push_back(pieces.tokens[static_cast<size_t>(*id)]);
  };
  for (const int64_t id : config.eos_token_ids) named(id);
  named(config.pad_token_id);
  if (const auto unknown = file.Int("tokenizer.ggml.unknown_token_id"); unknown.ok() && *unknown >= 0) named(*unknown);
  if (config.bos_token_id && *config.bos_token_id < static_cast<int64_t>(pieces.tokens.size())) {
    rules.bos = pieces.tokens[static_cast<size_t>(*config.bos_token_id)];
    rules.special.push_back(rules.bos);
  } else if (rules.add_bos) {
    return InvalidArgument("TOKENIZER_MALFORMED", "add_bos_token is set and there is no bos token");
  }
  SBORA_ASSIGN_OR_RETURN(const Json tokenizer, SentencePieceTokenizer(pieces, rules));
  SBORA_ASSIGN_OR_RETURN(Json settings,
                         TokenizerConfig(file, config, pieces.tokens, tokenizer["added_tokens"], rules.add_bos));
  settings["tokenizer_class"] = "LlamaTokenizer";
  settings["add_prefix_space"] = rules.prefix_space;
  settings["legacy"] = false;
  if (!ValidUtf8(tokenizer) || !ValidUtf8(settings))
    return InvalidArgument("TOKENIZER_MALFORMED", "a token or the chat template is no UTF-8");
  return TokenizerFiles{.tokenizer_json = tokenizer.dump() + "\n",
                        .tokenizer_config_json = settings.dump(2) + "\n",
                        .has_chat_template = settings.contains("chat_template")};
}

}  // namespace

StatusOr<Json> GgufPreTokenizer(const std::string& name) {
  if (name == "smollm") {
    // Digits one by one first: without this step numbers get other ids than the model was trained on.
    return Sequence({{{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(true)});
  }
  if (name == "gpt-2") return ByteLevel(true);
  if (name == "llama-bpe") return Sequence({Split(kLlama3Pattern), ByteLevel(false)});
  if (name == "default") {  // llama.cpp's rules for files that name no pre-tokenizer
    return Sequence({Split("[\\p{P}\\$\\+<=>\\^~\\|]+"),
                     Split("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"),
                     Split("\\p{N}+"), Split("[0-9][0-9][0-9]"), ByteLevel(false)});
  }
  return Unimplemented("TOKENIZER_UNSUPPORTED",
                       fmt::format("GGUF pre-tokenizer \"{}\" is not supported; smollm, llama-bpe, gpt-2 and default are. "
                                   "Import the original folder with its tokenizer.json", name.substr(0, 80)));
}

std::string GgufUnusedToken(size_t id) { return fmt::format("[PAD{}]", id); }

StatusOr<TokenizerFiles> GgufTokenizer(const GgufFile& file, const ModelConfig& config) {
  SBORA_ASSIGN_OR_RETURN(const std::string model, file.String("tokenizer.ggml.model"));
  if (model == "llama") return SentencePieceFiles(file, config);
  if (model != "gpt2") {
    return Unimplemented(
        "TOKENIZER_UNSUPPORTED",
        fmt::format("GGUF tokenizer model \"{}\" is not supported; byte-level BPE (\"gpt2\") and "
                    "sentencepiece (\"llama\") are. Import the original folder with its tokenizer.json",
                    model.substr(0, 80)));
  }
  std::string pre = "default";
  if (file.Has("tokenizer.ggml.pre")) {
    SBORA_ASSIGN_OR_RETURN(pre, file.String("tokenizer.ggml.pre"));
  }
  SBORA_ASSIGN_OR_RETURN(const Json pre_tokenizer, GgufPreTokenizer(pre));
  SBORA_ASSIGN_OR_RETURN(Vocabulary v, ReadVocabulary(file, config));
  const bool llama3 = pre == "llama-bpe";
  SBORA_ASSIGN_OR_RETURN(const bool add_bos, BoolOr(file, "tokenizer.ggml.add_bos_token", llama3));
  SBORA_RETURN_IF_ERROR(CheckNoEnd(file));
  Json processor = ByteLevel(true);
  if (add_bos) {
    if (!config.bos_token_id || *config.bos_token_id >= static_cast<int64_t>(v.tokens->size())) {
      return InvalidArgument("TOKENIZER_MALFORMED", "add_bos_token is set and there is no bos token");
    }
    const auto id = *config.bos_token_id;
    processor = {{"type", "Sequence"},
                 {"processors", Json::array({ByteLevel(true), BosTemplate((*v.tokens)[static_cast<size_t>(id)], id)})}};
  }
  SBORA_ASSIGN_OR_RETURN(const Json tokenizer_config, TokenizerConfig(file, config, *v.tokens, v.added, add_bos));
  const Json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", v.added},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", pre_tokenizer},
                          {"post_processor", processor},
                          {"decoder", ByteLevel(true)},
                          {"model",
                           {{"type", "BPE"},
                            {"dropout", nullptr},
                            {"unk_token", nullptr},
                            {"continuing_subword_prefix", nullptr},
                            {"end_of_word_suffix", nullptr},
                            {"fuse_unk", false},
                            {"byte_fallback", false},
                            {"ignore_merges", llama3},
                            {"vocab", std::move(v.vocab)},
                            {"merges", std::move(v.merges)}}}};
  if (!ValidUtf8(tokenizer_config)) return InvalidArgument("TOKENIZER_MALFORMED", "the chat template is no UTF-8");
  return TokenizerFiles{.tokenizer_json = tokenizer.dump() + "\n",
                        .tokenizer_config_json = tokenizer_config.dump(2) + "\n",
                        .has_chat_template = tokenizer_config.contains("chat_template")};
}

}  // namespace sbora::core
