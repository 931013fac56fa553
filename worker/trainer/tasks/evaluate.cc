#include "worker/trainer/tasks/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "common/file.h"
#include "common/status_macros.h"
#include "data/prompt_template.h"
#include "data/text_model.h"
#include "worker/trainer/tasks/prepare.h"

namespace sbora::trainer {
namespace {

constexpr char kExamplesFile[] = "examples.jsonl";
constexpr char kGenerationsFile[] = "generations.jsonl";

/// With the data sets' files in place of the folders that hold them.
StatusOr<data::EvaluationSet> ReadSet(const EvaluateRequest& request) {
  data::EvaluationInputs inputs = request.inputs;
  SBORA_ASSIGN_OR_RETURN(inputs.dataset, OnlyFile(inputs.dataset));
  if (!inputs.few_shot_dataset.empty()) {
    SBORA_ASSIGN_OR_RETURN(inputs.few_shot_dataset, OnlyFile(inputs.few_shot_dataset));
  }
  return data::ReadEvaluationSet(inputs);
}

std::vector<int64_t> Widen(const std::vector<int32_t>& ids) { return {ids.begin(), ids.end()}; }

std::vector<int64_t> EosIds(const data::TextModel& text) { return Widen(text.eos_ids); }

StatusOr<ScoredSample> Score(const data::Record& record, core::PromptTemplate prompt_template,
                             const data::TextModel& text, int64_t max_tokens) {
  SBORA_ASSIGN_OR_RETURN(const auto segments, data::RenderRecord(record, prompt_template, text));
  SBORA_ASSIGN_OR_RETURN(auto tokens, data::Tokenize(segments, prompt_template, core::LossOn::kResponse, text));
  const auto size = static_cast<size_t>(std::min<int64_t>(max_tokens, std::ssize(tokens.ids)));
  tokens.ids.resize(size);
  tokens.supervised.resize(size);
  return ScoredSample{.ids = Widen(tokens.ids), .supervised = {tokens.supervised.begin(), tokens.supervised.end()}};
}

/// The token of each choice's letter behind "Answer:".
StatusOr<std::vector<int64_t>> ChoiceTokens(const data::TextModel& text, data::Scoring scoring, size_t choices) {
  constexpr std::string_view kBefore = "Answer:";
  const bool spaced = scoring == data::Scoring::kChoiceLikelihoodSpaced;
  std::vector<int32_t> before;
  if (spaced) {
    SBORA_ASSIGN_OR_RETURN(before, text.tokenizer->Encode(kBefore, /*add_special_tokens=*/false));
  }
  std::vector<int64_t> tokens;
  for (size_t i = 0; i < choices; ++i) {
    const std::string letter(1, static_cast<char>('A' + i));
    SBORA_ASSIGN_OR_RETURN(const auto ids,
                           text.tokenizer->Encode(spaced ? fmt::format("{} {}", kBefore, letter) : letter,
                                                  /*add_special_tokens=*/false));
    const auto first = std::mismatch(ids.begin(), ids.end(), before.begin(), before.end()).first;
    if (first == ids.end() || std::find(tokens.begin(), tokens.end(), *first) != tokens.end()) {
      return InvalidArgument("CHOICE_TOKENS_ALIKE",
                             fmt::format("the tokenizer has no first token of its own for the letter {}; use the other "
                                         "choice_likelihood, or score generated text",
                                         letter));
    }
    tokens.push_back(*first);
  }
  return tokens;
}

/// The steps of one evaluation on a loaded model.
class Evaluation {
 public:
  Evaluation(const EvaluateRequest& request, const data::EvaluationSet& set, const data::TextModel& text,
             InferenceSession& session, TaskObserver& observer)
      : request_(request),
        rule_(request.inputs.rule),
        set_(set),
        text_(text),
        session_(session),
        observer_(observer),
        template_(data::ResolveTemplate(request.prompt_template, set.items.front().record.format)),
        total_(std::ssize(set.items)) {
    outcome_.samples = total_;
  }

  StatusOr<EvaluateOutcome> Run() {
    SBORA_RETURN_IF_ERROR(MakePrompts());
    if (request_.perplexity) SBORA_RETURN_IF_ERROR(MeasureLoss());
    if (request_.answers) {
      SBORA_RETURN_IF_ERROR(ReportUnasked());
      SBORA_RETURN_IF_ERROR(data::ByLikelihood(rule_.scoring) ? Choose() : Generate());
      Tally();
    }
    return std::move(outcome_);
  }

 private:
  int64_t Context() const { return session_.config().max_position_embeddings; }

  /// Fills examples, prompts_ and asked_.
  Status MakePrompts() {
    const bool likelihood = data::ByLikelihood(rule_.scoring);
    for (size_t i = 0; i < set_.items.size(); ++i) {
      const data::EvaluationItem& item = set_.items[i];
      EvaluatedExample example{.index = item.index,
                               .prompt = {},
                               .reference = item.reference,
                               .expected = item.expected,
                               .subject = item.record.subject};
      std::vector<int32_t> ids;
      if (likelihood) {
        SBORA_ASSIGN_OR_RETURN(ids, FewShotTokens(item.record, example.prompt));
      } else {
        SBORA_ASSIGN_OR_RETURN(example.prompt, data::RenderPrompt(item.record, template_, text_));
        SBORA_ASSIGN_OR_RETURN(ids, data::TokenizePrompt(example.prompt, template_, text_));
      }
      if (std::ssize(ids) <= Context()) {
        prompts_.push_back(Widen(ids));
        asked_.push_back(i);
      }
      outcome_.examples.push_back(std::move(example));
    }
    outcome_.prompts_too_long = total_ - std::ssize(asked_);
    return OkStatus();
  }

  /// The prompt with as many few-shot questions as fit, and its tokens.
  StatusOr<std::vector<int32_t>> FewShotTokens(const data::Record& record, std::string& prompt) {
    const auto found = set_.few_shots.find(record.subject);
    const std::vector<data::Record> none;
    const std::vector<data::Record>& shots = found == set_.few_shots.end() ? none : found->second;
    for (size_t count = shots.size();; --count) {
      prompt = data::FewShotPrompt(record.subject, std::span(shots).first(count), record);
      SBORA_ASSIGN_OR_RETURN(auto ids, data::TokenizePrompt(prompt, core::PromptTemplate::kPlain, text_));
      if (std::ssize(ids) > Context() && count > 0) continue;
      shortened_ += count < shots.size() ? 1 : 0;
      return ids;
    }
  }

  Status MeasureLoss() {
    std::vector<ScoredSample> samples;
    for (const auto& item : set_.items) {
      SBORA_ASSIGN_OR_RETURN(auto sample, Score(item.record, template_, text_, Context()));
      samples.push_back(std::move(sample));
    }
    // With answers, the samples that count as done are the answered ones.
    SBORA_ASSIGN_OR_RETURN(const LossTotal loss,
                           session_.AnswerLoss(samples, request_.generation.batch_size, [&](int64_t done) {
                             Report("scoring references", request_.answers ? 0 : done, done);
                           }));
    if (loss.tokens == 0) {
      return InvalidArgument("ALL_LABELS_MASKED", "no reference has a token within the model's context");
    }
    outcome_.loss = loss.sum / static_cast<double>(loss.tokens);
    outcome_.perplexity = std::exp(outcome_.loss);
    return OkStatus();
  }

  Status Generate() {
    GenerationSettings settings = request_.generation;
    settings.eos_ids = EosIds(text_);
    SBORA_ASSIGN_OR_RETURN(const auto answers, session_.Generate(prompts_, settings, [&](int64_t done) {
      Report("generating", done, done);
    }));
    for (size_t i = 0; i < answers.size(); ++i) {
      EvaluatedExample& example = outcome_.examples[asked_[i]];
      const std::vector<int32_t> ids(answers[i].begin(), answers[i].end());
      SBORA_ASSIGN_OR_RETURN(example.output, text_.tokenizer->Decode(ids, /*skip_special_tokens=*/true));
      const bool whole = rule_.scoring == data::Scoring::kExactMatch;
      example.answer = data::FindAnswer(rule_, whole ? example.output : data::ResponseText(example.output));
    }
    return OkStatus();
  }

  Status Choose() {
    std::vector<std::vector<int64_t>> choices;
    for (const size_t i : asked_) {
      SBORA_ASSIGN_OR_RETURN(auto tokens, ChoiceTokens(text_, rule_.scoring, set_.items[i].record.choices.size()));
      choices.push_back(std::move(tokens));
    }
    SBORA_ASSIGN_OR_RETURN(const auto log_probabilities,
                           session_.NextTokenLogProbabilities(prompts_, choices, request_.generation.batch_size,
                                                              [&](int64_t done) { Report("choosing", done, done); }));
    for (size_t i = 0; i < log_probabilities.size(); ++i) {
      EvaluatedExample& example = outcome_.examples[asked_[i]];
      const auto best = std::max_element(log_probabilities[i].begin(), log_probabilities[i].end());
      example.answer = std::string(1, static_cast<char>('A' + (best - log_probabilities[i].begin())));
      example.choice_log_probabilities = log_probabilities[i];
    }
    return OkStatus();
  }

  void Tally() {
    for (EvaluatedExample& example : outcome_.examples) {
      example.match = example.answer && data::IsRight(rule_, example.expected, *example.answer);
      outcome_.correct += example.match ? 1 : 0;
      outcome_.unanswered += example.answer ? 0 : 1;
      if (example.subject.empty()) continue;
      SubjectTally& subject = outcome_.subjects[example.subject];
      ++subject.samples;
      subject.correct += example.match ? 1 : 0;
    }
  }

  void Report(std::string_view what, int64_t step, int64_t done) {
    observer_.OnProgress({.step = step,
                          .total_steps = total_,
                          .loss = outcome_.loss,
                          .phase = fmt::format("{} ({} of {})", what, done, total_)});
  }

  /// Prompts that the model cannot read whole count as wrong: one of them must not cost the evaluation.
  Status ReportUnasked() const {
    if (shortened_ > 0) {
      observer_.OnEvent(
          EventLevel::kWarn, "FEW_SHOTS_LEFT_OUT",
          fmt::format("{} of {} prompts show fewer than {} questions to keep within the model's {} tokens", shortened_,
                      total_, request_.inputs.few_shots, Context()));
    }
    const int64_t count = outcome_.prompts_too_long;
    if (count == 0) return OkStatus();
    if (count == total_) {
      return InvalidArgument("PROMPT_TOO_LONG",
                             fmt::format("all {} prompts have more than the model's {} tokens", count, Context()));
    }
    observer_.OnEvent(EventLevel::kWarn, "PROMPTS_TOO_LONG",
                      fmt::format("{} of {} prompts have more than the model's {} tokens and count as wrong", count,
                                  total_, Context()));
    return OkStatus();
  }

  const EvaluateRequest& request_;
  const data::AnswerRule& rule_;
  const data::EvaluationSet& set_;
  const data::TextModel& text_;
  InferenceSession& session_;
  TaskObserver& observer_;
  const core::PromptTemplate template_;
  const int64_t total_;
  EvaluateOutcome outcome_;
  std::vector<std::vector<int64_t>> prompts_;  // those that fit the model's context
  std::vector<size_t> asked_;                  // prompt -> example
  int64_t shortened_ = 0;
};

std::string JsonLine(const EvaluatedExample& example) {
  nlohmann::ordered_json line = {
      {"index", example.index},
      {"prompt", example.prompt},
      {"reference", example.reference},
      {"output", example.output},
      {"match", example.match},
      {"answer", example.answer ? nlohmann::ordered_json(*example.answer) : nlohmann::ordered_json()},
      {"expected", example.expected}};
  if (!example.subject.empty()) line["subject"] = example.subject;
  if (!example.choice_log_probabilities.empty()) line["choice_log_probabilities"] = example.choice_log_probabilities;
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

double EvaluateOutcome::SubjectMean() const {
  if (subjects.empty()) return samples == 0 ? 0 : static_cast<double>(correct) / static_cast<double>(samples);
  double sum = 0;
  for (const auto& [name, tally] : subjects) {
    sum += static_cast<double>(tally.correct) / static_cast<double>(tally.samples);
  }
  return sum / static_cast<double>(subjects.size());
}

StatusOr<EvaluateOutcome> Evaluate(const EvaluateRequest& request, TaskObserver& observer) {
  SBORA_ASSIGN_OR_RETURN(const auto set, ReadSet(request));
  SBORA_ASSIGN_OR_RETURN(const auto text, data::TextModel::Open(request.model.model_dir));
  SBORA_ASSIGN_OR_RETURN(const auto session, InferenceSession::Load(request.model, observer));
  SBORA_ASSIGN_OR_RETURN(auto outcome, Evaluation(request, set, text, *session, observer).Run());
  std::string lines;
  for (const auto& example : outcome.examples) lines += JsonLine(example);
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(request.output_dir / kExamplesFile, lines));
  return outcome;
}

StatusOr<std::vector<std::string>> GenerateTexts(const GenerateTextRequest& request, TaskObserver& observer) {
  SBORA_ASSIGN_OR_RETURN(const auto text, data::TextModel::Open(request.model.model_dir));
  const auto prompt_template = request.chat ? core::PromptTemplate::kChat : core::PromptTemplate::kPlain;
  std::vector<std::vector<int64_t>> prompts;
  for (const auto& prompt : request.prompts) {
    std::string rendered = prompt;
    if (request.chat) {
      data::Record record;
      record.format = data::DatasetFormat::kChat;
      record.messages = {{"user", prompt}, {"assistant", ""}};
      SBORA_ASSIGN_OR_RETURN(rendered, data::RenderPrompt(record, prompt_template, text));
    }
    SBORA_ASSIGN_OR_RETURN(const auto ids, data::TokenizePrompt(rendered, prompt_template, text));
    prompts.push_back(Widen(ids));
  }
  SBORA_ASSIGN_OR_RETURN(const auto session, InferenceSession::Load(request.model, observer));
  GenerationSettings settings = request.generation;
  settings.eos_ids = EosIds(text);
  const auto total = std::ssize(prompts);
  SBORA_ASSIGN_OR_RETURN(const auto answers, session->Generate(prompts, settings, [&](int64_t done) {
    observer.OnProgress(
        {.step = done, .total_steps = total, .phase = fmt::format("generating ({} of {})", done, total)});
  }));
  std::vector<std::string> texts;
  std::string lines;
  for (size_t i = 0; i < answers.size(); ++i) {
    const std::vector<int32_t> ids(answers[i].begin(), answers[i].end());
    SBORA_ASSIGN_OR_RETURN(auto answer, text.tokenizer->Decode(ids, /*skip_special_tokens=*/true));
    const nlohmann::json line = {{"index", i}, {"prompt", request.prompts[i]}, {"text", answer}};
    lines += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    texts.push_back(std::move(answer));
  }
  SBORA_RETURN_IF_ERROR(WriteFileAtomic(request.output_dir / kGenerationsFile, lines));
  return texts;
}

}  // namespace sbora::trainer
