#include "data/answer_rule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace sbora::data {
namespace {

constexpr std::string_view kSpace = " \t\r\n\f\v";
constexpr std::string_view kNextResponse = "### Response:";

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsOption(char c) { return c >= 'A' && c <= 'E'; }

std::string WithoutCommas(std::string_view text) {
  std::string out(text);
  std::erase(out, ',');
  return out;
}

/// A number that is the whole text, infinite where a double cannot hold it.
std::optional<double> ParseNumber(std::string_view text) {
  const std::string plain = WithoutCommas(Trimmed(text));
  double value = 0;
  const auto [end, error] = std::from_chars(plain.data(), plain.data() + plain.size(), value);
  if (plain.empty() || end != plain.data() + plain.size() || error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) return plain.front() == '-' ? -HUGE_VAL : HUGE_VAL;
  return value;
}

std::optional<std::string> LastNumber(std::string_view text) {
  const std::string plain = WithoutCommas(text);
  std::optional<std::string> last;
  for (size_t i = 0; i < plain.size();) {
    const size_t begin = i;
    if (plain[i] == '-' && i + 1 < plain.size() && IsDigit(plain[i + 1])) ++i;
    if (!IsDigit(plain[i])) {
      ++i;
      continue;
    }
    while (i < plain.size() && IsDigit(plain[i])) ++i;
    if (i < plain.size() && plain[i] == '.') {
      ++i;
      while (i < plain.size() && IsDigit(plain[i])) ++i;
    }
    last = plain.substr(begin, i - begin);
  }
  return last;
}

std::optional<std::string> FirstWord(const std::vector<std::string>& words, std::string_view text) {
  size_t best = std::string_view::npos;
  const std::string* found = nullptr;
  for (const std::string& word : words) {
    const size_t at = text.find(word);
    if (at < best) {  // strictly: the earlier word of the list wins at one place
      best = at;
      found = &word;
    }
  }
  return found == nullptr ? std::nullopt : std::optional(*found);
}

bool StandsAlone(std::string_view text, size_t at) {
  if (at + 1 >= text.size()) return true;
  const char next = text[at + 1];
  return !IsLetter(next) && !IsDigit(next) && next != '\'';
}

/// The letter given as the answer from `at` on, or 0.
char LetterAt(std::string_view text, size_t at) {
  constexpr std::string_view kBetween = " \t\n(*:";
  const auto skip = [&] { at = std::min(text.find_first_not_of(kBetween, at), text.size()); };
  skip();
  if (text.substr(at).starts_with("option ") || text.substr(at).starts_with("Option ")) {
    at += std::string_view("option ").size();
    skip();
  }
  return at < text.size() && IsOption(text[at]) && StandsAlone(text, at) ? text[at] : '\0';
}

std::optional<std::string> StrictLetter(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  char letter = 0;
  size_t place = 0;
  for (const std::string_view mark : {std::string_view("answer is"), std::string_view("answer:")}) {
    for (size_t at = lower.find(mark); at != std::string::npos; at = lower.find(mark, at + 1)) {
      const char found = LetterAt(text, at + mark.size());
      if (found == 0 || at < place) continue;
      letter = found;
      place = at;
    }
  }
  if (letter != 0) return std::string(1, letter);
  std::string_view begin = Trimmed(text);
  if (begin.starts_with('(')) begin.remove_prefix(1);
  const bool ends =
      begin.size() == 1 || (begin.size() > 1 && std::string_view(").:,").find(begin[1]) != std::string_view::npos);
  return !begin.empty() && IsOption(begin[0]) && ends ? std::optional(std::string(1, begin[0])) : std::nullopt;
}

std::optional<std::string> FirstOption(std::string_view text) {
  const size_t at = text.find_first_of("ABCDE");
  return at == std::string_view::npos ? std::nullopt : std::optional(std::string(1, text[at]));
}

}  // namespace

std::string_view ScoringName(Scoring scoring) {
  switch (scoring) {
    case Scoring::kExactMatch: return "exact_match";
    case Scoring::kAnswerWord: return "answer_word";
    case Scoring::kLastNumber: return "last_number";
    case Scoring::kOptionLetterPaper: return "option_letter_paper";
    case Scoring::kOptionLetterStrict: return "option_letter_strict";
    case Scoring::kChoiceLikelihood: return "choice_likelihood";
    case Scoring::kChoiceLikelihoodSpaced: return "choice_likelihood_spaced";
  }
  return "exact_match";
}

bool ByLikelihood(Scoring scoring) {
  return scoring == Scoring::kChoiceLikelihood || scoring == Scoring::kChoiceLikelihoodSpaced;
}

std::string_view Trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string_view ResponseText(std::string_view generated) {
  return Trimmed(generated.substr(0, generated.find(kNextResponse)));
}

std::optional<std::string> FindAnswer(const AnswerRule& rule, std::string_view text) {
  switch (rule.scoring) {
    case Scoring::kExactMatch: return std::string(Trimmed(text));
    case Scoring::kAnswerWord: return FirstWord(rule.answer_words, text);
    case Scoring::kLastNumber: return LastNumber(text);
    case Scoring::kOptionLetterPaper: return FirstOption(text);
    case Scoring::kOptionLetterStrict: return StrictLetter(text);
    case Scoring::kChoiceLikelihood:
    case Scoring::kChoiceLikelihoodSpaced: break;
  }
  return std::nullopt;
}

bool IsRight(const AnswerRule& rule, std::string_view expected, std::string_view found) {
  if (rule.scoring != Scoring::kLastNumber) return Trimmed(expected) == Trimmed(found);
  const std::optional<double> wanted = ParseNumber(expected);
  const std::optional<double> got = ParseNumber(found);
  return wanted && got && std::abs(*wanted - *got) <= kNumberTolerance;
}

std::string CheckExpected(const AnswerRule& rule, std::string_view expected) {
  const std::string shown(Trimmed(expected).substr(0, 40));
  switch (rule.scoring) {
    case Scoring::kExactMatch: return {};
    case Scoring::kAnswerWord:
      if (std::find(rule.answer_words.begin(), rule.answer_words.end(), Trimmed(expected)) != rule.answer_words.end())
        return {};
      return fmt::format("\"{}\" is none of {}", shown, fmt::join(rule.answer_words, ", "));
    case Scoring::kLastNumber: {
      const std::optional<double> number = ParseNumber(expected);
      if (number && std::isfinite(*number)) return {};
      return fmt::format("\"{}\" is no number", shown);
    }
    case Scoring::kOptionLetterPaper:
    case Scoring::kOptionLetterStrict:
      if (Trimmed(expected).size() == 1 && IsOption(Trimmed(expected)[0])) return {};
      return fmt::format("\"{}\" is none of the letters A to E", shown);
    case Scoring::kChoiceLikelihood:
    case Scoring::kChoiceLikelihoodSpaced:
      if (Trimmed(expected).size() == 1 && IsLetter(Trimmed(expected)[0])) return {};
      return fmt::format("\"{}\" is no choice's letter", shown);
  }
  return {};
}

}  // namespace sbora::data
