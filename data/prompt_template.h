/// From records to text, and from text to tokens with a mask.
///
/// Rules (they decide what is learnt, so they are fixed and versioned with the token cache):
/// 1. A record renders to segments, each supervised or not: the prompt is not, the response is; of a chat every
///    assistant turn is, together with its end-of-turn token.
/// 2. The ids of a sample equal those of tokenising its whole text in one go. A token that crosses a border between
///    segments belongs to the segment in which it ends.
/// 3. The end-of-sequence id is appended, supervised, unless the sample already ends with one (chat templates write
///    theirs).
/// 4. With LossOn::kAll every token is supervised. The first token of a sample is never a target: nothing precedes it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"
#include "core/job_spec.h"
#include "data/dataset_reader.h"
#include "data/text_model.h"

namespace sbora::data {

struct Segment {
  std::string text;
  bool supervised = false;

  bool operator==(const Segment&) const = default;
};

/// What kAuto means for records of this format: chat -> kChat, alpaca -> kAlpaca, prompt/completion and choice ->
/// kPlain.
core::PromptTemplate ResolveTemplate(core::PromptTemplate wanted, DatasetFormat format);
/// "auto", "alpaca", "llm_adapters", "plain", "chat".
std::string_view PromptTemplateName(core::PromptTemplate prompt_template);

/// Stanford Alpaca's prompt, to the character; `input` empty: the form without input.
std::string AlpacaPrompt(std::string_view instruction, std::string_view input);
/// The prompts of LLM-Adapters (arXiv 2304.01933; DoRA's commonsense experiments have the same), to the character:
/// since 2023-04-07, with the indentation and the spaces at line ends. Its evaluation scripts word the prompt otherwise
/// than its training script: other spaces behind the first line, and empty lines where training has indented ones.
std::string LlmAdaptersPrompt(std::string_view instruction, std::string_view input);
std::string LlmAdaptersEvaluationPrompt(std::string_view instruction, std::string_view input);

/// A question with its choices lettered from A, and "Answer:"; as Hendrycks' test of MMLU (arXiv 2009.03300) has it, to
/// the character, for any number of choices up to 26.
std::string ChoicePrompt(std::string_view question, std::span<const std::string> choices);
/// The same test's prompt: the line that names the subject (underscores as spaces, and two spaces before it, as there),
/// the answered `shots`, the question. An empty subject leaves " about  ..." out. REQUIRED: all are kChoice records.
std::string FewShotPrompt(std::string_view subject, std::span<const Record> shots, const Record& question);

/// The segments of a record. Records of one shape work with templates of another where that has one meaning: alpaca and
/// prompt/completion records become a user and an assistant turn for kChat; prompt/completion is an instruction without
/// input for the alpaca templates, and choice records are prompt/completion; chat records need kChat.
/// Errors: INVALID_ARGUMENT TEMPLATE_MISMATCH, CHAT_TEMPLATE_MISSING, CHAT_TEMPLATE_UNSTABLE (a conversation's beginning
/// does not render to a beginning of the whole), and those of ChatTemplate::Render.
StatusOr<std::vector<Segment>> RenderRecord(const Record& record, core::PromptTemplate prompt_template,
                                            const TextModel& model);

/// The text to generate from: all of the record but its last response. The same templates as in training, but for
/// kLlmAdapters, which has its own (LlmAdaptersEvaluationPrompt).
StatusOr<std::string> RenderPrompt(const Record& record, core::PromptTemplate prompt_template, const TextModel& model);
/// Tokens of RenderPrompt as a training sample would begin with.
StatusOr<std::vector<int32_t>> TokenizePrompt(std::string_view prompt, core::PromptTemplate prompt_template,
                                              const TextModel& model);

struct TokenizedSample {
  std::vector<int32_t> ids;
  std::vector<uint8_t> supervised;  ///< 1 or 0 for each id: is this token a target?
  int64_t response_start = 0;       ///< index of the first token of a supervised segment, also with LossOn::kAll
};

/// Applies the rules above. Nothing is cut here.
/// Errors: those of the tokenizer.
StatusOr<TokenizedSample> Tokenize(const std::vector<Segment>& segments, core::PromptTemplate prompt_template,
                                   core::LossOn loss_on, const TextModel& model);

}  // namespace sbora::data
