#include "core/sentencepiece.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>
#include <unordered_map>

#include "common/status_macros.h"
#include "core/bounded_json.h"
#include "core/gguf_tokenizer.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxPieceBytes = 512;  // a piece is tried at each of its splits
constexpr const char* kSpace = "\u2581";

Status Unsupported(std::string_view what) {
  return Unimplemented(
      "TOKENIZER_UNSUPPORTED",
      fmt::format("the sentencepiece tokenizer {}; import the folder with a tokenizer.json that says what is "
                  "meant (transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...))",
                  what));
}

Status Malformed(std::string_view what) {
  return InvalidArgument("TOKENIZER_MALFORMED", fmt::format("the sentencepiece tokenizer {}", what));
}

using Ids = std::unordered_map<std::string_view, size_t>;

Ids IdsOf(const SentencePieceVocabulary& vocabulary) {
  Ids ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) ids.emplace(vocabulary.tokens[id], id);
  return ids;
}

/// Where the characters of a text begin, and its end.
std::vector<size_t> Borders(std::string_view text) {
  std::vector<size_t> borders;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<uint8_t>(text[i]) & 0xC0) != 0x80) borders.push_back(i);
  }
  borders.push_back(text.size());
  return borders;
}

struct Merge {
  size_t piece = 0;
  size_t left = 0;
  size_t right = 0;
  size_t left_characters = 0;
  size_t right_characters = 0;
};

Status CheckVocabulary(const SentencePieceVocabulary& vocabulary, const Ids& ids) {
  if (ids.size() != vocabulary.tokens.size()) return Malformed("has the same token twice");
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (!std::isfinite(vocabulary.scores[id]))
      return Malformed(fmt::format("has a score that is not finite, of token {}", id));
    if (vocabulary.tokens[id].size() <= kMaxPieceBytes) continue;
    return Unsupported(
        fmt::format("has a token of {} bytes (id {}), more than {}", vocabulary.tokens[id].size(), id, kMaxPieceBytes));
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (!ids.contains(fmt::format("<0x{:02X}>", byte))) {
      return Unsupported(fmt::format("has no token <0x{:02X}>: without all bytes some characters would vanish", byte));
    }
  }
  for (const char* token : {"<unk>", "<s>", "</s>"}) {
    if (!ids.contains(token)) return Unsupported(fmt::format("has no token {}, which LlamaTokenizer would add", token));
  }
  return OkStatus();
}

/// Control, named and user-defined tokens, by id, and what comes behind the vocabulary.
StatusOr<Json> AddedTokens(const SentencePieceVocabulary& vocabulary, const Ids& ids, const SentencePieceRules& rules) {
  const auto entry = [](size_t id, const std::string& text, bool special) {
    return Json{{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", special}};
  };
  std::vector<std::string> special = rules.special;
  special.insert(special.end(), {"<unk>", "<s>", "</s>"});
  Json added = Json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    const bool named = std::find(special.begin(), special.end(), token) != special.end();
    const bool control = vocabulary.types[id] == kGgufControlToken;
    if (named || control || vocabulary.types[id] == kGgufUserDefinedToken)
      added.push_back(entry(id, token, named || control));
  }
  size_t next = vocabulary.tokens.size();
  for (const Json& token : rules.added) {
    const auto text = token["content"].get<std::string>();
    if (ids.contains(text) || token["id"].get<size_t>() != next) {
      return Unsupported(fmt::format("has the added token {} at id {}, which is not the next behind its {} tokens",
                                     text, token["id"].get<size_t>(), next));
    }
    const bool named = std::find(special.begin(), special.end(), text) != special.end();
    added.push_back(entry(next++, text, named || token["special"].get<bool>()));
  }
  for (const std::string& token : special) {
    const auto is = [&](const Json& other) { return other["content"] == token; };
    if (std::none_of(added.begin(), added.end(), is))
      return Malformed(fmt::format("has no token {}, which is named as special", token));
  }
  return added;
}

Json PostProcessor(const Json& added, const SentencePieceRules& rules) {
  const Json a = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const Json b = {{"Sequence", {{"id", "B"}, {"type_id", 1}}}};
  Json json = {{"type", "TemplateProcessing"},
               {"single", Json::array({a})},
               {"pair", Json::array({a, b})},
               {"special_tokens", Json::object()}};
  if (!rules.add_bos) return json;
  const auto bos = [&](int type) { return Json{{"SpecialToken", {{"id", rules.bos}, {"type_id", type}}}}; };
  json["single"] = Json::array({bos(0), a});
  json["pair"] = Json::array({bos(0), a, bos(1), b});
  for (const Json& token : added) {
    if (token["content"] != rules.bos) continue;
    json["special_tokens"][rules.bos] = {
        {"id", rules.bos}, {"ids", Json::array({token["id"]})}, {"tokens", Json::array({rules.bos})}};
  }
  return json;
}

Json Decoder(bool prefix_space) {
  Json steps = Json::array();
  steps.push_back(Json{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}});
  steps.push_back(Json{{"type", "ByteFallback"}});
  steps.push_back(Json{{"type", "Fuse"}});
  if (prefix_space) steps.push_back(Json{{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", steps}};
}

}  // namespace

std::vector<std::pair<std::string, std::string>> SentencePieceMerges(const SentencePieceVocabulary& vocabulary,
                                                                     MergeOrder order) {
  const Ids ids = IdsOf(vocabulary);
  std::vector<Merge> merges;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string_view token = vocabulary.tokens[id];
    const std::vector<size_t> borders = Borders(token);
    for (size_t i = 1; i + 1 < borders.size(); ++i) {
      const auto left = ids.find(token.substr(0, borders[i]));
      if (left == ids.end()) continue;
      const auto right = ids.find(token.substr(borders[i]));
      if (right == ids.end()) continue;
      merges.push_back({id, left->second, right->second, i, borders.size() - 1 - i});
    }
  }
  const auto before = [&](const Merge& a, const Merge& b) {
    if (order == MergeOrder::kById) return std::tie(a.piece, a.left_characters) < std::tie(b.piece, b.left_characters);
    const float score_a = vocabulary.scores[a.piece];
    const float score_b = vocabulary.scores[b.piece];
    return std::tie(score_a, a.left_characters, a.right_characters) >
           std::tie(score_b, b.left_characters, b.right_characters);
  };
  std::stable_sort(merges.begin(), merges.end(), before);  // ties by id: so they come
  std::vector<std::pair<std::string, std::string>> pairs;
  pairs.reserve(merges.size());
  for (const Merge& merge : merges) pairs.emplace_back(vocabulary.tokens[merge.left], vocabulary.tokens[merge.right]);
  return pairs;
}

StatusOr<Json> SentencePieceTokenizer(const SentencePieceVocabulary& vocabulary, const SentencePieceRules& rules) {
  const Ids ids = IdsOf(vocabulary);
  SBORA_RETURN_IF_ERROR(CheckVocabulary(vocabulary, ids));
  SBORA_ASSIGN_OR_RETURN(const Json added, AddedTokens(vocabulary, ids, rules));
  Json vocab = Json::object();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) vocab[vocabulary.tokens[id]] = id;
  Json merges = Json::array();
  for (const auto& [left, right] : SentencePieceMerges(vocabulary, rules.order))
    merges.push_back(Json::array({left, right}));
  const char* scheme = !rules.prefix_space ? "never" : rules.legacy ? "always" : "first";
  return Json{
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "Metaspace"}, {"replacement", kSpace}, {"prepend_scheme", scheme}, {"split", false}}},
      {"post_processor", PostProcessor(added, rules)},
      {"decoder", Decoder(rules.prefix_space)},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"ignore_merges", false},
        {"vocab", std::move(vocab)},
        {"merges", std::move(merges)}}}};
}

namespace {

/// Null, a missing member or the value.
Json Setting(const Json& settings, const char* key) { return settings.value(key, Json()); }

/// A special token is text, or an object with "content".
StatusOr<std::string> TokenSetting(const Json& settings, const char* key) {
  const Json value = Setting(settings, key);
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object()) return std::string();
  for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
    if (value.value(flag, Json()) == true) return Unsupported(fmt::format("has {} with {}", key, flag));
  }
  return value.value("content", Json()).is_string() ? value["content"].get<std::string>() : std::string();
}

/// Where sentencepiece and LlamaTokenizer go apart.
Status CheckFollowed(const SentencePieceModel& model, bool prefix_space) {
  if (model.model_type != 2)
    return Unsupported(fmt::format("is of type {}, and LlamaTokenizer is BPE (2)", model.model_type));
  if (!model.byte_fallback) return Unsupported("has no byte fallback, and LlamaTokenizer has");
  if (model.normalizes)
    return Unsupported(
        fmt::format("normalises text (\"{}\"), which LlamaTokenizer does not", model.normalization.substr(0, 80)));
  if (model.remove_extra_whitespaces) return Unsupported("removes extra white space, which LlamaTokenizer does not");
  if (!model.escape_whitespaces || model.whitespace_as_suffix)
    return Unsupported("treats spaces otherwise than LlamaTokenizer");
  if (model.add_dummy_prefix == prefix_space) return OkStatus();
  return Unsupported(fmt::format("says add_dummy_prefix={} and tokenizer_config.json add_prefix_space={}",
                                 model.add_dummy_prefix, prefix_space));
}

/// Tokens of the vocabulary that tokenizer_config.json calls special, and those behind it.
Status ReadAddedTokens(const Json& settings, const SentencePieceVocabulary& vocabulary, SentencePieceRules& rules) {
  const auto count = static_cast<int64_t>(vocabulary.tokens.size());
  std::map<int64_t, Json> behind;  // JSON sorts ids as text
  const Json decoder = Setting(settings, "added_tokens_decoder");
  for (const auto& [text, token] : decoder.items()) {
    const int64_t id = text.empty() || text.find_first_not_of("0123456789") != std::string::npos || text.size() > 9
                           ? -1
                           : std::stoll(text);
    const Json content = token.is_object() ? token.value("content", Json()) : Json();
    if (id < 0 || !content.is_string())
      return Malformed("has an added_tokens_decoder that does not say id and content");
    for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
      if (token.value(flag, Json()) == true)
        return Unsupported(fmt::format("has the added token {} with {}", content.dump(), flag));
    }
    const bool special = token.value("special", Json()) == true;
    if (id >= count) {
      behind[id] = {{"id", id}, {"content", content}, {"special", special}};
    } else if (content != vocabulary.tokens[static_cast<size_t>(id)]) {
      return Unsupported(fmt::format("calls token {} {}, tokenizer_config.json {}", id,
                                     vocabulary.tokens[static_cast<size_t>(id)], content.dump()));
    } else if (special) {
      rules.special.push_back(content.get<std::string>());
    } else if (vocabulary.types[static_cast<size_t>(id)] != kGgufUserDefinedToken) {
      return Unsupported(fmt::format("has {} as an added token that is not special", content.dump()));
    }
  }
  for (const auto& [id, token] : behind) rules.added.push_back(token);
  return OkStatus();
}

StatusOr<SentencePieceRules> RulesOf(const Json& settings, const SentencePieceVocabulary& vocabulary) {
  SentencePieceRules rules;
  const Json type = Setting(settings, "tokenizer_class");
  if (!type.is_null() && type != "LlamaTokenizer" && type != "LlamaTokenizerFast") {
    return Unsupported(fmt::format("is of the class {}; LlamaTokenizer is supported", type.dump().substr(0, 80)));
  }
  const Json add_bos = Setting(settings, "add_bos_token");
  if (!add_bos.is_boolean()) {
    return Unsupported(
        "has no add_bos_token in tokenizer_config.json, where transformers 4 adds one and 5 does not: say it there");
  }
  if (Setting(settings, "add_eos_token") == true) return Unsupported("adds an end token to every text (add_eos_token)");
  if (Setting(settings, "split_special_tokens") == true) return Unsupported("splits special tokens");
  rules.add_bos = add_bos.get<bool>();
  rules.prefix_space = Setting(settings, "add_prefix_space") != false;
  rules.legacy = Setting(settings, "legacy") == true;
  for (const char* key : {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}) {
    SBORA_ASSIGN_OR_RETURN(const std::string token, TokenSetting(settings, key));
    if (!token.empty()) rules.special.push_back(token);
    if (key != std::string_view("bos_token")) continue;
    if (!token.empty()) rules.bos = token;
    if (settings.contains(key) && token.empty()) rules.add_bos = false;  // null: there is none to add
  }
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const Json more = Setting(settings, key);
    if (!more.empty()) return Unsupported(fmt::format("has {} in tokenizer_config.json", key));
  }
  SBORA_RETURN_IF_ERROR(ReadAddedTokens(settings, vocabulary, rules));
  return rules;
}

}  // namespace

StatusOr<std::string> TokenizerJsonOfSentencePiece(std::string_view model_bytes,
                                                   std::string_view tokenizer_config_json) {
  SBORA_ASSIGN_OR_RETURN(const SentencePieceModel model, ParseSentencePieceModel(model_bytes));
  const Json settings = tokenizer_config_json.empty() ? Json::object() : ParseBoundedJson(tokenizer_config_json);
  if (!settings.is_object()) {
    return Malformed(fmt::format("has a tokenizer_config.json that is no JSON object of at most {} levels", kMaxJsonDepth));
  }
  SBORA_ASSIGN_OR_RETURN(const SentencePieceRules rules, RulesOf(settings, model.vocabulary));
  SBORA_RETURN_IF_ERROR(CheckFollowed(model, rules.prefix_space));
  SBORA_ASSIGN_OR_RETURN(const Json tokenizer, SentencePieceTokenizer(model.vocabulary, rules));
  try {
    return tokenizer.dump() + "\n";
  } catch (const Json::exception&) {  // the library's only way to say that a string is no UTF-8
    return Malformed("has a piece that is no UTF-8");
  }
}

}  // namespace sbora::core
