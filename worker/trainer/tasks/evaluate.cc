#include "worker/trainer/tasks/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
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

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

/// The answer that the prompt asks for: the last response of the record.
std::string Reference(const data::Record& record) {
  switch (record.format) {
    case data::DatasetFormat::kAlpaca:
      return record.output;
    case data::DatasetFormat::kPromptCompletion:
      return record.completion;
    case data::DatasetFormat::kChat: {
      const auto last = std::find_if(record.messages.rbegin(), record.messages.rend(),
                                     [](const data::Message& message) { return message.role == "assistant"; });
      return last == record.messages.rend() ? std::string() : last->content;
    }
    case data::DatasetFormat::kAuto:
      break;
  }
  return {};
}

StatusOr<std::vector<data::Record>> ReadRecords(const EvaluateRequest& request) {
  SBORA_ASSIGN_OR_RETURN(const auto path, OnlyFile(request.dataset));
  SBORA_ASSIGN_OR_RETURN(const auto reader, data::DatasetReader::Open(path, {.format = request.dataset_format}));
  std::vector<data::Record> records;
  for (;;) {
    SBORA_ASSIGN_OR_RETURN(auto record, reader->Next());
    if (!record) break;
    if (request.max_samples == 0 || std::ssize(records) < request.max_samples) records.push_back(*std::move(record));
  }
  SBORA_RETURN_IF_ERROR(data::ToStatus(reader->stats(), path.filename().string()));
  return records;
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

/// The steps of one evaluation on a loaded model.
class Evaluation {
 public:
  Evaluation(const EvaluateRequest& request, const data::TextModel& text, InferenceSession& session,
             TaskObserver& observer)
      : request_(request), text_(text), session_(session), observer_(observer) {}

  StatusOr<EvaluateOutcome> Run(const std::vector<data::Record>& records) {
    const auto prompt_template = data::ResolveTemplate(request_.prompt_template, records.front().format);
    total_ = std::ssize(records);
    EvaluateOutcome outcome{.samples = total_};
    for (int64_t i = 0; i < total_; ++i) {
      const data::Record& record = records[static_cast<size_t>(i)];
      SBORA_ASSIGN_OR_RETURN(auto prompt, data::RenderPrompt(record, prompt_template, text_));
      outcome.examples.push_back({.index = i, .prompt = std::move(prompt), .reference = Reference(record)});
    }
    if (request_.perplexity) SBORA_RETURN_IF_ERROR(MeasureLoss(records, prompt_template, outcome));
    if (request_.exact_match) SBORA_RETURN_IF_ERROR(MeasureMatches(prompt_template, outcome));
    return outcome;
  }

 private:
  Status MeasureLoss(const std::vector<data::Record>& records, core::PromptTemplate prompt_template,
                     EvaluateOutcome& outcome) {
    std::vector<ScoredSample> samples;
    for (const auto& record : records) {
      SBORA_ASSIGN_OR_RETURN(auto sample, Score(record, prompt_template, text_, session_.config().max_position_embeddings));
      samples.push_back(std::move(sample));
    }
    // With exact match, the samples that count as done are the generated ones.
    const bool counts = !request_.exact_match;
    SBORA_ASSIGN_OR_RETURN(const LossTotal loss,
                           session_.AnswerLoss(samples, request_.generation.batch_size, [&](int64_t done) {
                             observer_.OnProgress({.step = counts ? done : 0,
                                                   .total_steps = total_,
                                                   .phase = fmt::format("scoring references ({} of {})", done, total_)});
                           }));
    if (loss.tokens == 0) {
      return InvalidArgument("ALL_LABELS_MASKED", "no reference has a token within the model's context");
    }
    outcome.loss = loss.sum / static_cast<double>(loss.tokens);
    outcome.perplexity = std::exp(outcome.loss);
    return OkStatus();
  }

  Status MeasureMatches(core::PromptTemplate prompt_template, EvaluateOutcome& outcome) {
    std::vector<std::vector<int64_t>> prompts;
    std::vector<size_t> asked;  // prompt -> example
    for (size_t i = 0; i < outcome.examples.size(); ++i) {
      SBORA_ASSIGN_OR_RETURN(const auto ids, data::TokenizePrompt(outcome.examples[i].prompt, prompt_template, text_));
      if (std::ssize(ids) > session_.config().max_position_embeddings) continue;
      prompts.push_back(Widen(ids));
      asked.push_back(i);
    }
    SBORA_RETURN_IF_ERROR(ReportUnasked(total_ - std::ssize(asked)));
    GenerationSettings settings = request_.generation;
    settings.eos_ids = EosIds(text_);
    SBORA_ASSIGN_OR_RETURN(const auto answers, session_.Generate(prompts, settings, [&](int64_t done) {
      observer_.OnProgress({.step = done,
                            .total_steps = total_,
                            .loss = outcome.loss,
                            .phase = fmt::format("generating ({} of {})", done, total_)});
    }));
    for (size_t i = 0; i < answers.size(); ++i) {
      EvaluatedExample& example = outcome.examples[asked[i]];
      const std::vector<int32_t> ids(answers[i].begin(), answers[i].end());
      SBORA_ASSIGN_OR_RETURN(example.output, text_.tokenizer->Decode(ids, /*skip_special_tokens=*/true));
      example.match = Trim(example.output) == Trim(example.reference);
      outcome.exact_matches += example.match ? 1 : 0;
    }
    return OkStatus();
  }

  /// Prompts that the model cannot read whole count as wrong: one of them must not cost the evaluation.
  Status ReportUnasked(int64_t count) const {
    if (count == 0) return OkStatus();
    const int64_t limit = session_.config().max_position_embeddings;
    if (count == total_) {
      return InvalidArgument("PROMPT_TOO_LONG", fmt::format("all {} prompts have more than the model's {} tokens", count, limit));
    }
    observer_.OnEvent(EventLevel::kWarn, "PROMPTS_TOO_LONG",
                      fmt::format("{} of {} prompts have more than the model's {} tokens and count as wrong", count, total_, limit));
    return OkStatus();
  }

  const EvaluateRequest& request_;
  const data::TextModel& text_;
  InferenceSession& session_;
  TaskObserver& observer_;
  int64_t total_ = 0;
};

}  // namespace

StatusOr<EvaluateOutcome> Evaluate(const EvaluateRequest& request, TaskObserver& observer) {
  SBORA_ASSIGN_OR_RETURN(const auto records, ReadRecords(request));
  if (records.empty()) return InvalidArgument("DATASET_EMPTY", "the data set has no samples to evaluate");
  SBORA_ASSIGN_OR_RETURN(const auto text, data::TextModel::Open(request.model.model_dir));
  SBORA_ASSIGN_OR_RETURN(const auto session, InferenceSession::Load(request.model, observer));
  SBORA_ASSIGN_OR_RETURN(auto outcome, Evaluation(request, text, *session, observer).Run(records));
  std::string lines;
  for (const auto& example : outcome.examples) {
    const nlohmann::json line = {{"index", example.index},
                                 {"prompt", example.prompt},
                                 {"reference", example.reference},
                                 {"output", example.output},
                                 {"match", example.match}};
    lines += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
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
    observer.OnProgress({.step = done, .total_steps = total, .phase = fmt::format("generating ({} of {})", done, total)});
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
