#include "data/prompt_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"

namespace sbora::data {
namespace {

using core::PromptTemplate;
using Json = nlohmann::json;

std::string Joined(const Record& record) {
  return record.input.empty() ? record.instruction : record.instruction + "\n" + record.input;
}

/// Any record as a conversation.
std::vector<Message> AsMessages(const Record& record) {
  if (record.format == DatasetFormat::kChat) return record.messages;
  if (record.format == DatasetFormat::kAlpaca) return {{"user", Joined(record)}, {"assistant", record.output}};
  return {{"user", record.prompt}, {"assistant", record.completion}};
}

StatusOr<std::string> RenderMessages(const std::vector<Message>& messages, size_t count, bool generation_prompt,
                                     const TextModel& model) {
  if (model.chat_template == nullptr) {
    return InvalidArgument("CHAT_TEMPLATE_MISSING", "the model has no chat template; use alpaca, llm_adapters or plain, or "
                                                    "import a model that has one");
  }
  Json list = Json::array();
  for (size_t i = 0; i < count; ++i) list.push_back({{"role", messages[i].role}, {"content", messages[i].content}});
  return model.chat_template->Render(list.dump(), generation_prompt, model.bos_token, model.eos_token);
}

/// The text a turn adds: an assistant's turn from where generation would start, so that the header it does not write
/// itself stays unsupervised.
StatusOr<std::vector<Segment>> RenderChat(const std::vector<Message>& messages, const TextModel& model) {
  SBORA_ASSIGN_OR_RETURN(const std::string whole, RenderMessages(messages, messages.size(), false, model));
  std::vector<Segment> segments;
  size_t done = 0;
  const auto extend = [&](const std::string& prefix, bool supervised) -> Status {
    if (prefix.size() < done || whole.compare(0, prefix.size(), prefix) != 0) {
      return InvalidArgument("CHAT_TEMPLATE_UNSTABLE",
                             "the chat template renders the beginning of this conversation otherwise than the whole, so "
                             "the assistant's part cannot be told apart; train with loss on all tokens and the plain "
                             "template, or use another chat template");
    }
    if (prefix.size() > done) segments.push_back({whole.substr(done, prefix.size() - done), supervised});
    done = prefix.size();
    return OkStatus();
  };
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role != "assistant") continue;
    SBORA_ASSIGN_OR_RETURN(const std::string before, RenderMessages(messages, i, true, model));
    SBORA_RETURN_IF_ERROR(extend(before, false));
    SBORA_ASSIGN_OR_RETURN(std::string after, RenderMessages(messages, i + 1, false, model));
    // Line breaks behind the end token are the template's, and are never generated.
    const size_t end = model.eos_token.empty() ? std::string::npos : after.rfind(model.eos_token);
    if (end != std::string::npos && end >= done &&
        after.find_first_not_of(" \t\r\n", end + model.eos_token.size()) == std::string::npos) {
      after.resize(end + model.eos_token.size());
    }
    SBORA_RETURN_IF_ERROR(extend(after, true));
  }
  SBORA_RETURN_IF_ERROR(extend(whole, false));
  return segments;
}

/// `generating`: the text to go on from; LLM-Adapters words it otherwise than in training.
StatusOr<std::string> TextPrompt(const Record& record, PromptTemplate prompt_template, bool generating) {
  if (record.format == DatasetFormat::kChat) {
    return InvalidArgument("TEMPLATE_MISMATCH", fmt::format("line {}: records of messages need the chat template, not {}",
                                                            record.line, PromptTemplateName(prompt_template)));
  }
  const bool alpaca = record.format == DatasetFormat::kAlpaca;
  const std::string& instruction = alpaca ? record.instruction : record.prompt;
  if (prompt_template == PromptTemplate::kAlpaca) return AlpacaPrompt(instruction, record.input);
  if (prompt_template == PromptTemplate::kLlmAdapters) {
    return generating ? LlmAdaptersEvaluationPrompt(instruction, record.input)
                      : LlmAdaptersPrompt(instruction, record.input);
  }
  return alpaca ? Joined(record) : record.prompt;
}

bool AddsSpecialTokens(PromptTemplate resolved) { return resolved != PromptTemplate::kChat; }

}  // namespace

PromptTemplate ResolveTemplate(PromptTemplate wanted, DatasetFormat format) {
  if (wanted != PromptTemplate::kAuto) return wanted;
  if (format == DatasetFormat::kChat) return PromptTemplate::kChat;
  const bool plain = format == DatasetFormat::kPromptCompletion || format == DatasetFormat::kChoice;
  return plain ? PromptTemplate::kPlain : PromptTemplate::kAlpaca;
}

std::string_view PromptTemplateName(PromptTemplate prompt_template) {
  switch (prompt_template) {
    case PromptTemplate::kAuto: return "auto";
    case PromptTemplate::kAlpaca: return "alpaca";
    case PromptTemplate::kLlmAdapters: return "llm_adapters";
    case PromptTemplate::kPlain: return "plain";
    case PromptTemplate::kChat: return "chat";
  }
  return "auto";
}

std::string AlpacaPrompt(std::string_view instruction, std::string_view input) {
  if (input.empty()) {
    return fmt::format("Below is an instruction that describes a task. Write a response that appropriately completes the "
                       "request.\n\n### Instruction:\n{}\n\n### Response:", instruction);
  }
  return fmt::format("Below is an instruction that describes a task, paired with an input that provides further context. "
                     "Write a response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### "
                     "Input:\n{}\n\n### Response:", instruction, input);
}

namespace {

/// Both forms write the template inside a function: its indentation, and the spaces that end a line, are part of the
/// text.
constexpr std::string_view kAdaptersIndent = "                ";
constexpr std::string_view kAdaptersTask = "Below is an instruction that describes a task";
constexpr std::string_view kAdaptersInput = ", paired with an input that provides further context";
constexpr std::string_view kAdaptersRequest = ". Write a response that appropriately completes the request.";

/// `blank`: what stands on the empty lines between the parts. `spaces`: behind the first line.
std::string AdaptersText(std::string_view instruction, std::string_view input, std::string_view spaces,
                         std::string_view blank) {
  std::string text =
      fmt::format("{}{}{}{}\n\n", kAdaptersTask, input.empty() ? "" : kAdaptersInput, kAdaptersRequest, spaces);
  text += fmt::format("{0}### Instruction:\n{0}{1}\n{2}\n", kAdaptersIndent, instruction, blank);
  if (!input.empty()) text += fmt::format("{0}### Input:\n{0}{1}\n{2}\n", kAdaptersIndent, input, blank);
  return text + fmt::format("{0}### Response:\n{0}", kAdaptersIndent);
}

}  // namespace

std::string LlmAdaptersPrompt(std::string_view instruction, std::string_view input) {
  return AdaptersText(instruction, input, input.empty() ? "  " : " ", kAdaptersIndent);
}

std::string LlmAdaptersEvaluationPrompt(std::string_view instruction, std::string_view input) {
  return AdaptersText(instruction, input, input.empty() ? " " : "", "");
}

std::string ChoicePrompt(std::string_view question, std::span<const std::string> choices) {
  std::string text(question);
  for (size_t i = 0; i < choices.size(); ++i) text += fmt::format("\n{}. {}", static_cast<char>('A' + i), choices[i]);
  return text + "\nAnswer:";
}

std::string FewShotPrompt(std::string_view subject, std::span<const Record> shots, const Record& question) {
  std::string about;
  if (!subject.empty()) {
    about = fmt::format(" about  {}", subject);
    std::replace(about.begin(), about.end(), '_', ' ');
  }
  std::string text = fmt::format("The following are multiple choice questions (with answers){}.\n\n", about);
  for (const Record& shot : shots) text += shot.prompt + shot.completion + "\n\n";
  return text + question.prompt;
}

StatusOr<std::vector<Segment>> RenderRecord(const Record& record, PromptTemplate prompt_template, const TextModel& model) {
  const PromptTemplate resolved = ResolveTemplate(prompt_template, record.format);
  if (resolved == PromptTemplate::kChat) {
    auto segments = RenderChat(AsMessages(record), model);
    if (!segments.ok()) return segments.status().WithContext(fmt::format("line {}", record.line));
    return segments;
  }
  SBORA_ASSIGN_OR_RETURN(std::string prompt, TextPrompt(record, resolved, /*generating=*/false));
  const bool alpaca = record.format == DatasetFormat::kAlpaca;
  return std::vector<Segment>{{std::move(prompt), false}, {alpaca ? record.output : record.completion, true}};
}

StatusOr<std::string> RenderPrompt(const Record& record, PromptTemplate prompt_template, const TextModel& model) {
  const PromptTemplate resolved = ResolveTemplate(prompt_template, record.format);
  if (resolved != PromptTemplate::kChat) return TextPrompt(record, resolved, /*generating=*/true);
  const std::vector<Message> messages = AsMessages(record);
  size_t count = messages.size();
  if (count > 0 && messages.back().role == "assistant") --count;
  return RenderMessages(messages, count, true, model);
}

StatusOr<std::vector<int32_t>> TokenizePrompt(std::string_view prompt, PromptTemplate prompt_template,
                                              const TextModel& model) {
  SBORA_ASSIGN_OR_RETURN(auto ids, model.tokenizer->Encode(prompt, AddsSpecialTokens(prompt_template)));
  // A post-processor may close the text with an end token, after which there is nothing to generate.
  if (!ids.empty() && AddsSpecialTokens(prompt_template) &&
      std::find(model.eos_ids.begin(), model.eos_ids.end(), ids.back()) != model.eos_ids.end() &&
      !prompt.ends_with(model.eos_token)) {
    ids.pop_back();
  }
  return ids;
}

StatusOr<TokenizedSample> Tokenize(const std::vector<Segment>& segments, PromptTemplate prompt_template,
                                   core::LossOn loss_on, const TextModel& model) {
  const bool special = AddsSpecialTokens(prompt_template);
  std::string whole;
  for (const Segment& segment : segments) whole += segment.text;
  SBORA_ASSIGN_OR_RETURN(auto encoding, model.tokenizer->EncodeWithEnds(whole, special));
  TokenizedSample sample;
  sample.ids = std::move(encoding.ids);
  const size_t count = sample.ids.size();
  sample.supervised.assign(count, 0);
  sample.response_start = static_cast<int64_t>(count);
  size_t token = 0;
  size_t border = 0;     // of the segment's text in the whole
  int64_t reached = 0;   // behind the token; tokens that stand for no text go with their neighbour on the left
  for (size_t i = 0; i < segments.size(); ++i) {
    border += segments[i].text.size();
    const size_t begin = token;
    const bool last = i + 1 == segments.size();
    for (; token < count; ++token) {
      reached = std::max<int64_t>(reached, encoding.ends[token]);
      if (!last && reached > static_cast<int64_t>(border)) break;
    }
    if (!segments[i].supervised || segments[i].text.empty()) continue;
    std::fill(sample.supervised.begin() + static_cast<int64_t>(begin),
              sample.supervised.begin() + static_cast<int64_t>(token), uint8_t{1});
    sample.response_start = std::min(sample.response_start, static_cast<int64_t>(begin));
  }
  const auto is_end = [&](int32_t id) {
    return std::find(model.eos_ids.begin(), model.eos_ids.end(), id) != model.eos_ids.end();
  };
  // A chat template's own end token may stand before trailing line breaks.
  const bool chat_ended = prompt_template == PromptTemplate::kChat && !model.eos_token.empty() &&
                          whole.find_last_not_of(" \t\r\n") != std::string::npos &&
                          std::string_view(whole).substr(0, whole.find_last_not_of(" \t\r\n") + 1).ends_with(model.eos_token);
  if (!chat_ended && (sample.ids.empty() || !is_end(sample.ids.back()))) {
    sample.ids.push_back(model.eos_ids[0]);
    sample.supervised.push_back(1);
  }
  if (loss_on == core::LossOn::kAll) std::fill(sample.supervised.begin(), sample.supervised.end(), uint8_t{1});
  return sample;
}

}  // namespace sbora::data
