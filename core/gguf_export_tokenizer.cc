// GGUF keeps of a tokenizer its tokens, their types, the merges and a NAME for the rest; so the rest must be exactly what
// llama.cpp does under one of the names.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/status_macros.h"
#include "core/bounded_json.h"
#include "core/gguf_export.h"
#include "core/gguf_export_sentencepiece.h"
#include "core/gguf_tokenizer.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;

Status Unsupported(std::string_view what) {
  return Unimplemented(
      "TOKENIZER_UNSUPPORTED",
      fmt::format("tokenizer.json: {}; GGUF cannot hold it as llama.cpp would read it. Byte-level BPE with "
                  "the splitting rules of SmolLM2, LLaMA 3 or GPT-2, and sentencepiece as LLaMA has it, can be "
                  "exported; the merged Hugging Face checkpoint always can (adapters merge)",
                  what));
}

Status Malformed(std::string_view what) {
  return InvalidArgument("TOKENIZER_MALFORMED", fmt::format("tokenizer.json: {}", what));
}

/// A member that is there and not null.
const Json* Member(const Json& object, const char* key) {
  const auto it = object.is_object() ? object.find(key) : object.end();
  return !object.is_object() || it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string TextOf(const Json& object, const char* key) {
  const Json* value = Member(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
}

bool IsTrue(const Json& object, const char* key) {
  const Json* value = Member(object, key);
  return value != nullptr && value->is_boolean() && value->get<bool>();
}

/// Without what has no bearing on token ids.
Json WithoutOffsets(Json rules) {
  if (rules.is_object()) rules.erase("trim_offsets");
  for (Json& child : rules) {
    if (child.is_structured()) child = WithoutOffsets(child);
  }
  return rules;
}

StatusOr<std::string> PreTokenizerName(const Json& tokenizer) {
  const Json* rules = Member(tokenizer, "pre_tokenizer");
  if (rules == nullptr) return Unsupported("it has no pre-tokenizer");
  for (const char* name : kGgufPreTokenizers) {
    SBORA_ASSIGN_OR_RETURN(const Json known, GgufPreTokenizer(name));
    if (WithoutOffsets(*rules) == WithoutOffsets(known)) return std::string(name);
  }
  return Unsupported(fmt::format("its pre_tokenizer {} is none that has a name", rules->dump().substr(0, 200)));
}

Status CheckModel(const Json& tokenizer, const std::string& pre) {
  const Json* model = Member(tokenizer, "model");
  if (model == nullptr || TextOf(*model, "type") != "BPE") return Unsupported("its model is not BPE");
  if (Member(tokenizer, "normalizer") != nullptr) return Unsupported("it has a normalizer");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!TextOf(*model, key).empty()) return Unsupported(fmt::format("its model has a {}", key));
  }
  if (pre.empty() || IsTrue(*model, "ignore_merges") == (pre == "llama-bpe")) return OkStatus();
  return Unsupported(fmt::format("ignore_merges={} with the splitting rules \"{}\"", IsTrue(*model, "ignore_merges"), pre));
}

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  std::vector<std::string> merges;

  std::optional<int64_t> Find(const std::string& token) const {
    const auto it = std::find(tokens.begin(), tokens.end(), token);
    const auto id = static_cast<size_t>(it - tokens.begin());
    if (token.empty() || it == tokens.end() || types[id] == kGgufUnusedToken) return std::nullopt;
    return static_cast<int64_t>(id);
  }
};

Status AddToken(const Json& id, const std::string& text, int32_t type, Vocabulary& vocabulary) {
  if (!id.is_number_unsigned() || id.get<uint64_t>() >= vocabulary.tokens.size()) {
    return Malformed(fmt::format("token \"{}\" has id {}, the embedding has {} rows", text.substr(0, 80), id.dump(),
                                 vocabulary.tokens.size()));
  }
  const auto row = id.get<size_t>();
  if (vocabulary.types[row] != kGgufUnusedToken && vocabulary.tokens[row] != text) {
    return Malformed(fmt::format("tokens \"{}\" and \"{}\" share id {}", vocabulary.tokens[row].substr(0, 80),
                                 text.substr(0, 80), row));
  }
  vocabulary.tokens[row] = text;
  vocabulary.types[row] = type;
  return OkStatus();
}

StatusOr<std::string> MergeText(const Json& merge) {
  if (merge.is_string()) return merge.get<std::string>();
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  return Malformed("a merge is neither a string nor a pair of strings");
}

StatusOr<Vocabulary> ReadVocabulary(const Json& tokenizer, int64_t vocab_size) {
  Vocabulary v;
  v.types.assign(static_cast<size_t>(vocab_size), kGgufUnusedToken);
  for (size_t id = 0; id < static_cast<size_t>(vocab_size); ++id) v.tokens.push_back(GgufUnusedToken(id));
  const Json& model = tokenizer["model"];
  const Json* vocab = Member(model, "vocab");
  const Json* merges = Member(model, "merges");
  if (vocab == nullptr || !vocab->is_object() || merges == nullptr || !merges->is_array()) {
    return Malformed("model.vocab is no object or model.merges no list");
  }
  for (const auto& [text, id] : vocab->items()) SBORA_RETURN_IF_ERROR(AddToken(id, text, kGgufNormalToken, v));
  const Json* added = Member(tokenizer, "added_tokens");
  for (const Json& token : added == nullptr ? Json::array() : *added) {
    for (const char* flag : {"lstrip", "rstrip", "single_word"}) {
      if (!IsTrue(token, flag)) continue;
      return Unsupported(fmt::format("added token \"{}\" has {}", TextOf(token, "content").substr(0, 80), flag));
    }
    const Json* id = Member(token, "id");
    if (id == nullptr) return Malformed("an added token has no id");
    SBORA_RETURN_IF_ERROR(AddToken(*id, TextOf(token, "content"),
                                   IsTrue(token, "special") ? kGgufControlToken : kGgufUserDefinedToken, v));
  }
  for (const Json& merge : *merges) {
    SBORA_ASSIGN_OR_RETURN(v.merges.emplace_back(), MergeText(merge));
  }
  return v;
}

/// Byte-level BPE.
Status WriteByteLevel(const Json& tokenizer, const Vocabulary& vocabulary, GgufMetadata& metadata) {
  SBORA_ASSIGN_OR_RETURN(const std::string pre, PreTokenizerName(tokenizer));
  SBORA_RETURN_IF_ERROR(CheckModel(tokenizer, pre));
  metadata.String("tokenizer.ggml.model", "gpt2");
  metadata.String("tokenizer.ggml.pre", pre);
  metadata.Bool("tokenizer.ggml.add_space_prefix", false);  // no known pre-tokenizer adds one
  metadata.Strings("tokenizer.ggml.tokens", vocabulary.tokens);
  metadata.Int32s("tokenizer.ggml.token_type", vocabulary.types);
  metadata.Strings("tokenizer.ggml.merges", vocabulary.merges);
  return OkStatus();
}

Status WriteSentencePiece(const Json& tokenizer, const std::string& unknown, Vocabulary& vocabulary,
                          GgufMetadata& metadata) {
  SBORA_ASSIGN_OR_RETURN(const GgufPieces pieces,
                         ReadGgufPieces(tokenizer, unknown, vocabulary.tokens, vocabulary.types));
  metadata.String("tokenizer.ggml.model", "llama");
  metadata.String("tokenizer.ggml.pre", "default");
  metadata.Bool("tokenizer.ggml.add_space_prefix", pieces.add_space_prefix);
  metadata.Strings("tokenizer.ggml.tokens", vocabulary.tokens);
  metadata.Float32s("tokenizer.ggml.scores", pieces.scores);
  metadata.Int32s("tokenizer.ggml.token_type", vocabulary.types);
  return OkStatus();
}

/// The one token that the post-processor puts in front of a text; empty for none.
StatusOr<std::string> LeadingToken(const Json& processor) {
  const std::string type = TextOf(processor, "type");
  if (processor.is_null() || type == "ByteLevel") return std::string();
  if (type == "Sequence") {
    std::string leading;
    const Json* steps = Member(processor, "processors");
    for (const Json& step : steps == nullptr ? Json::array() : *steps) {
      SBORA_ASSIGN_OR_RETURN(const std::string found, LeadingToken(step));
      if (!found.empty()) leading = found;
    }
    return leading;
  }
  const Json* single = Member(processor, "single");
  if (type != "TemplateProcessing" || single == nullptr) {
    return Unsupported(fmt::format("its post_processor is a {}", type.substr(0, 80)));
  }
  const auto is_text = [](const Json& piece) { return Member(piece, "Sequence") != nullptr; };
  if (single->size() == 1 && is_text((*single)[0])) return std::string();
  if (single->size() == 2 && Member((*single)[0], "SpecialToken") != nullptr && is_text((*single)[1])) {
    return TextOf((*single)[0]["SpecialToken"], "id");
  }
  return Unsupported("its post_processor adds more than one token in front");
}

/// tokenizer_config.json gives tokens as text, or as objects with "content".
std::string TokenText(const Json& settings, const char* key) {
  const Json* value = Member(settings, key);
  if (value == nullptr) return "";
  return value->is_string() ? value->get<std::string>() : TextOf(*value, "content");
}

Status WriteBos(const Json& tokenizer, const Vocabulary& vocabulary, const ModelConfig& config, GgufMetadata& metadata) {
  const Json* processor = Member(tokenizer, "post_processor");
  SBORA_ASSIGN_OR_RETURN(const std::string leading, LeadingToken(processor == nullptr ? Json() : *processor));
  std::optional<int64_t> bos = config.bos_token_id;
  if (!leading.empty()) {
    const auto found = vocabulary.Find(leading);
    if (!found || (bos && *bos != *found)) {
      return Unsupported(fmt::format("it starts texts with \"{}\", the config's BOS is token {}", leading.substr(0, 80),
                                     bos ? std::to_string(*bos) : "(none)"));
    }
    bos = found;
  }
  if (bos) metadata.Uint32("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(*bos));
  metadata.Bool("tokenizer.ggml.add_bos_token", !leading.empty());
  return OkStatus();
}

/// GGUF has one key for the end of a text, one for the end of a turn, one for the end of a message.
Status WriteEndTokens(const Json& settings, const Vocabulary& vocabulary, const ModelConfig& config, GgufMetadata& metadata) {
  if (config.eos_token_ids.empty()) return OkStatus();
  std::vector<int64_t> ids = config.eos_token_ids;
  const auto own = vocabulary.Find(TokenText(settings, "eos_token"));
  const auto first = own ? std::find(ids.begin(), ids.end(), *own) : ids.end();
  if (first != ids.end()) std::rotate(ids.begin(), first, first + 1);
  metadata.Uint32("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(ids[0]));
  std::optional<int64_t> turn, message;
  for (size_t i = 1; i < ids.size(); ++i) {
    std::optional<int64_t>& place = vocabulary.tokens[static_cast<size_t>(ids[i])] == "<|eom_id|>" ? message : turn;
    if (place) return Unsupported(fmt::format("the config names {} end tokens, more than GGUF has keys for", ids.size()));
    place = ids[i];
  }
  if (turn) metadata.Uint32("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(*turn));
  if (message) metadata.Uint32("tokenizer.ggml.eom_token_id", static_cast<uint32_t>(*message));
  return OkStatus();
}

StatusOr<std::string> ChatTemplate(const Json& settings, std::string_view file) {
  if (!file.empty()) return std::string(file);
  const Json* value = Member(settings, "chat_template");
  if (value == nullptr) return std::string();
  if (value->is_string()) return value->get<std::string>();
  for (const Json& entry : value->is_array() ? *value : Json::array()) {
    if (TextOf(entry, "name") == "default") return TextOf(entry, "template");
  }
  return Unsupported("tokenizer_config.json has named chat templates and none is \"default\"");
}

}  // namespace

Status GgufTokenizerMetadata(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                             std::string_view chat_template, const ModelConfig& config, GgufMetadata& metadata) {
  const Json tokenizer = ParseBoundedJson(tokenizer_json);
  const Json settings = tokenizer_config_json.empty() ? Json::object() : ParseBoundedJson(tokenizer_config_json);
  if (!tokenizer.is_object() || !settings.is_object()) {
    return Malformed(fmt::format("it or tokenizer_config.json is no JSON object of at most {} levels", kMaxJsonDepth));
  }
  const bool pieces = IsSentencePieceJson(tokenizer);
  // What is wrong with a model is said before what is wrong with its vocabulary.
  if (!pieces) {
    const auto pre = PreTokenizerName(tokenizer);
    SBORA_RETURN_IF_ERROR(CheckModel(tokenizer, pre.ok() ? *pre : ""));
    if (!pre.ok()) return pre.status();
  }
  SBORA_ASSIGN_OR_RETURN(Vocabulary vocabulary, ReadVocabulary(tokenizer, config.vocab_size));
  std::string unknown = TokenText(settings, "unk_token");
  if (pieces) {
    if (unknown.empty()) unknown = "<unk>";
    SBORA_RETURN_IF_ERROR(WriteSentencePiece(tokenizer, unknown, vocabulary, metadata));
  } else {
    SBORA_RETURN_IF_ERROR(WriteByteLevel(tokenizer, vocabulary, metadata));
  }
  SBORA_RETURN_IF_ERROR(WriteBos(tokenizer, vocabulary, config, metadata));
  SBORA_RETURN_IF_ERROR(WriteEndTokens(settings, vocabulary, config, metadata));
  std::optional<int64_t> pad = config.pad_token_id;
  if (!pad) pad = vocabulary.Find(TokenText(settings, "pad_token"));
  if (pad) metadata.Uint32("tokenizer.ggml.padding_token_id", static_cast<uint32_t>(*pad));
  if (const auto id = vocabulary.Find(unknown)) {
    metadata.Uint32("tokenizer.ggml.unknown_token_id", static_cast<uint32_t>(*id));
  }
  SBORA_ASSIGN_OR_RETURN(const std::string chat, ChatTemplate(settings, chat_template));
  if (!chat.empty()) metadata.String("tokenizer.chat_template", chat);
  return OkStatus();
}

}  // namespace sbora::core
