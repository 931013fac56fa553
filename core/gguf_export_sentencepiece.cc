#include "core/gguf_export_sentencepiece.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <utility>

#include "common/status_macros.h"
#include "core/gguf_tokenizer.h"
#include "core/sentencepiece.h"

namespace sbora::core {
namespace {

using Json = nlohmann::json;
using Pairs = std::vector<std::pair<std::string, std::string>>;

constexpr const char* kSpace = "\u2581";
constexpr size_t kMaxExactScores = size_t{1} << 24;  // as float32

Status Unsupported(std::string_view what) {
  return Unimplemented(
      "TOKENIZER_UNSUPPORTED",
      fmt::format("tokenizer.json is sentencepiece-style and {}; GGUF cannot hold it as llama.cpp would read it. "
                  "The merged Hugging Face checkpoint can be exported (adapters merge)",
                  what));
}

Json MemberOf(const Json& object, const char* key) { return object.is_object() ? object.value(key, Json()) : Json(); }

/// Both ways in which transformers writes "spaces are ▁, and one comes first".
StatusOr<bool> PrefixSpace(const Json& tokenizer) {
  const Json normalizer = MemberOf(tokenizer, "normalizer");
  const Json pre = MemberOf(tokenizer, "pre_tokenizer");
  if (normalizer.is_null() && MemberOf(pre, "type") == "Metaspace") {
    const Json scheme = MemberOf(pre, "prepend_scheme");
    const bool known = scheme == "first" || scheme == "always" || scheme == "never";
    if (MemberOf(pre, "replacement") == kSpace && MemberOf(pre, "split") == false && known) return scheme != "never";
  }
  if (pre.is_null()) {
    const Json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}};
    const Json prepend = {{"type", "Prepend"}, {"prepend", kSpace}};
    const auto sequence = [](Json steps) { return Json{{"type", "Sequence"}, {"normalizers", std::move(steps)}}; };
    if (normalizer == sequence(Json::array({prepend, replace}))) return true;
    if (normalizer == replace || normalizer == sequence(Json::array({replace}))) return false;
  }
  return Unsupported(fmt::format("its normalizer {} with its pre_tokenizer {} is not LLaMA's",
                                 normalizer.dump().substr(0, 200), pre.dump().substr(0, 200)));
}

Status CheckModel(const Json& model) {
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json value = MemberOf(model, key);
    if (!value.is_null() && value != "") return Unsupported(fmt::format("its model has a {}", key));
  }
  if (MemberOf(model, "ignore_merges") == true) return Unsupported("its model has ignore_merges");
  return OkStatus();
}

StatusOr<Pairs> ReadMerges(const Json& model) {
  Pairs pairs;
  for (const Json& merge : MemberOf(model, "merges")) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      pairs.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
      continue;
    }
    const std::string text = merge.is_string() ? merge.get<std::string>() : "";
    const size_t space = text.find(' ', 1);
    if (space == std::string::npos) {
      return InvalidArgument("TOKENIZER_MALFORMED",
                             "tokenizer.json: a merge is neither a pair of strings nor two joined by a space");
    }
    pairs.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return pairs;
}

/// The tokens that the merges make, most preferred first.
StatusOr<std::vector<std::string>> MergedInOrder(const Pairs& merges, const SentencePieceVocabulary& vocabulary) {
  Pairs given = merges;
  Pairs expected = SentencePieceMerges(vocabulary, MergeOrder::kById);
  std::sort(given.begin(), given.end());
  std::sort(expected.begin(), expected.end());
  if (given != expected) {
    return Unsupported(fmt::format("its {} merges are not the {} splits of its tokens into two tokens", given.size(),
                                   expected.size()));
  }
  std::vector<std::string> made;
  std::set<std::string> seen;
  for (const auto& [left, right] : merges) {
    std::string token = left + right;
    if (!made.empty() && made.back() == token) continue;
    if (!seen.insert(token).second)
      return Unsupported(fmt::format("the merges that make \"{}\" are not in a row", token.substr(0, 80)));
    made.push_back(std::move(token));
  }
  return made;
}

/// Else llama.cpp could make the token of a character that is none.
Status CheckCharacters(const std::string& token, const std::set<std::string, std::less<>>& tokens) {
  for (size_t begin = 0, end = 1; begin < token.size(); begin = end++) {
    while (end < token.size() && (static_cast<uint8_t>(token[end]) & 0xC0) == 0x80) ++end;
    const std::string_view character = std::string_view(token).substr(begin, end - begin);
    if (tokens.find(character) == tokens.end()) {
      return Unsupported(
          fmt::format("its token \"{}\" has the character \"{}\", which is no token", token.substr(0, 80), character));
    }
  }
  return OkStatus();
}

std::vector<float> Scores(const std::vector<std::string>& made, const SentencePieceVocabulary& vocabulary) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) ids.emplace(vocabulary.tokens[id], id);
  std::vector<size_t> order;
  for (const std::string& token : made) order.push_back(ids.at(token));
  std::vector<float> scores(vocabulary.tokens.size(), 0.0f);
  if (!std::is_sorted(order.begin(), order.end())) {
    std::vector<bool> is_made(scores.size(), false);
    for (size_t rank = 0; rank < order.size(); ++rank) {
      scores[order[rank]] = -static_cast<float>(rank);
      is_made[order[rank]] = true;
    }
    for (size_t id = 0; id < scores.size(); ++id) {
      if (!is_made[id] && vocabulary.types[id] == kGgufNormalToken) scores[id] = -static_cast<float>(order.size());
    }
    return scores;
  }
  // sentencepiece's own: the first learnt piece has 0, each later one 1 less.
  const auto first =
      std::find(vocabulary.types.begin(), vocabulary.types.end(), kGgufNormalToken) - vocabulary.types.begin();
  for (size_t id = static_cast<size_t>(first); id < scores.size(); ++id) {
    if (vocabulary.types[id] == kGgufNormalToken) scores[id] = -static_cast<float>(id - static_cast<size_t>(first));
  }
  return scores;
}

}  // namespace

bool IsSentencePieceJson(const Json& tokenizer) {
  const Json model = MemberOf(tokenizer, "model");
  return MemberOf(model, "type") == "BPE" && MemberOf(model, "byte_fallback") == true;
}

StatusOr<GgufPieces> ReadGgufPieces(const Json& tokenizer, const std::string& unknown,
                                    const std::vector<std::string>& tokens, std::vector<int32_t>& types) {
  GgufPieces pieces;
  const Json model = MemberOf(tokenizer, "model");
  SBORA_RETURN_IF_ERROR(CheckModel(model));
  SBORA_ASSIGN_OR_RETURN(pieces.add_space_prefix, PrefixSpace(tokenizer));
  if (tokens.size() > kMaxExactScores)
    return Unsupported(fmt::format("has {} tokens, more scores than float32 tells apart", tokens.size()));
  std::set<std::string, std::less<>> known;
  const Json vocab = MemberOf(model, "vocab");
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] == kGgufUnusedToken || !vocab.contains(tokens[id])) continue;
    known.insert(tokens[id]);
    if (tokens[id] == unknown) types[id] = kGgufUnknownToken;
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto id = std::find(tokens.begin(), tokens.end(), fmt::format("<0x{:02X}>", byte)) - tokens.begin();
    if (static_cast<size_t>(id) == tokens.size()) return Unsupported(fmt::format("has no token <0x{:02X}>", byte));
    types[static_cast<size_t>(id)] = kGgufByteToken;
  }
  // Tokens behind the vocabulary are added ones, which no merge makes.
  SentencePieceVocabulary vocabulary{.tokens = tokens, .types = types, .scores = {}};
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (!known.contains(tokens[id])) vocabulary.tokens[id] = "";
    if (types[id] == kGgufNormalToken) SBORA_RETURN_IF_ERROR(CheckCharacters(tokens[id], known));
  }
  SBORA_ASSIGN_OR_RETURN(const Pairs merges, ReadMerges(model));
  SBORA_ASSIGN_OR_RETURN(const auto made, MergedInOrder(merges, vocabulary));
  pieces.scores = Scores(made, vocabulary);
  return pieces;
}

}  // namespace sbora::core
