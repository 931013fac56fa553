/// How an answer is found in what a model says, and when it is right. Pure functions, thread-safe.
///
/// The rules are those published figures were made with: LLM-Adapters' evaluation scripts (words, numbers, the paper's
/// option letter; arXiv 2304.01933), which SBoRA's experiments use too (arXiv 2407.05413). They look at ASCII only.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sbora::data {

enum class Scoring {
  kExactMatch,              ///< the whole text, trimmed
  kAnswerWord,              ///< the first hit of any word; case counts, word borders do not
  kLastNumber,              ///< the last -?digits[.digits] once commas are gone; right within kNumberTolerance
  kOptionLetterPaper,       ///< the first capital A to E anywhere
  kOptionLetterStrict,      ///< a capital A to E that stands alone where an answer is given; see FindAnswer
  kChoiceLikelihood,        ///< no text: the likeliest of the tokens 'A', 'B', ...
  kChoiceLikelihoodSpaced,  ///< no text: the likeliest of ' A', ' B', ...
};
inline constexpr double kNumberTolerance = 1e-3;

/// "exact_match", "answer_word", ...: the proto's names in lower case.
std::string_view ScoringName(Scoring scoring);
/// True for the two that compare tokens instead of reading text.
bool ByLikelihood(Scoring scoring);

struct AnswerRule {
  Scoring scoring = Scoring::kExactMatch;
  std::vector<std::string> answer_words = {};  ///< kAnswerWord: in order of preference where two begin at one place
};

/// `text` without ASCII white space around it.
std::string_view Trimmed(std::string_view text);

/// The model's answer to one prompt: up to a further "### Response:", which a model that goes on by itself writes,
/// trimmed.
std::string_view ResponseText(std::string_view generated);

/// What the rule finds in `text` (kExactMatch: all of it, trimmed); nothing when there is no answer, and by likelihood.
/// kOptionLetterStrict: the letter after the last "answer is" or "answer:" (any case) that has one, behind any of the
/// characters ' ', line feed, '(', '*', ':' and the word "option"; else a letter with which the trimmed text begins,
/// bare or in parentheses, and which ends the text or is followed by one of ") . : ,". A letter stands alone: no
/// letter, digit or apostrophe follows it.
std::optional<std::string> FindAnswer(const AnswerRule& rule, std::string_view text);

/// Whether `found`, a result of FindAnswer, is the `expected` answer. REQUIRED: CheckExpected(rule, expected) is empty.
bool IsRight(const AnswerRule& rule, std::string_view expected, std::string_view found);

/// Why no found answer could ever equal `expected` ("\"maybe\" is none of true, false"); empty when one could.
std::string CheckExpected(const AnswerRule& rule, std::string_view expected);

}  // namespace sbora::data
