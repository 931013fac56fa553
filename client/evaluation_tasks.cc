#include "client/evaluation_tasks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "client/spec_fields.h"

namespace sbora::client {
namespace {

constexpr int kBeams = 4;
constexpr int kCommonsenseTokens = 32;
constexpr int kArithmeticTokens = 256;
constexpr int kFewShots = 5;

v1::EvaluationSpec Generated(v1::Scoring scoring, int max_new_tokens, const std::vector<std::string>& words = {}) {
  v1::EvaluationSpec spec;
  spec.set_scoring(scoring);
  spec.mutable_answer_words()->Assign(words.begin(), words.end());
  spec.set_prompt_template(v1::PROMPT_TEMPLATE_LLM_ADAPTERS);
  spec.mutable_generation()->set_num_beams(kBeams);
  spec.mutable_generation()->set_max_new_tokens(max_new_tokens);
  return spec;
}

EvaluationTask Commonsense(const char* name, const std::vector<std::string>& words) {
  return {name, fmt::format("commonsense: the first of {}", fmt::join(words, ", ")),
          Generated(v1::SCORING_ANSWER_WORD, kCommonsenseTokens, words)};
}

EvaluationTask Arithmetic(const char* name) {
  return {name, "arithmetic: the last number", Generated(v1::SCORING_LAST_NUMBER, kArithmeticTokens)};
}

std::vector<EvaluationTask> MakeTasks() {
  const std::vector<std::string> answers = {"answer1", "answer2", "answer3", "answer4", "answer5"};
  v1::EvaluationSpec mmlu;
  mmlu.set_scoring(v1::SCORING_CHOICE_LIKELIHOOD);
  mmlu.set_few_shots(kFewShots);
  return {Commonsense("boolq", {"true", "false"}),
          Commonsense("piqa", {"solution1", "solution2"}),
          Commonsense("social_i_qa", answers),
          Commonsense("hellaswag", {"ending1", "ending2", "ending3", "ending4"}),
          Commonsense("winogrande", {"option1", "option2"}),
          Commonsense("ARC-Easy", answers),
          Commonsense("ARC-Challenge", answers),
          Commonsense("openbookqa", answers),
          Arithmetic("MultiArith"),
          Arithmetic("gsm8k"),
          Arithmetic("AddSub"),
          Arithmetic("SingleEq"),
          Arithmetic("SVAMP"),
          {"AQuA", "arithmetic: the first capital A to E (--scoring option_letter_strict for one given as the answer)",
           Generated(v1::SCORING_OPTION_LETTER_PAPER, kArithmeticTokens)},
          {"mmlu", "57 subjects: the likeliest letter after 5 questions of --few-shot-dataset", mmlu}};
}

std::string Lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

}  // namespace

const std::vector<EvaluationTask>& EvaluationTasks() {
  static const std::vector<EvaluationTask> tasks = MakeTasks();
  return tasks;
}

StatusOr<EvaluationTask> FindEvaluationTask(std::string_view name) {
  std::vector<std::string> names;
  for (const EvaluationTask& task : EvaluationTasks()) {
    if (Lower(task.name) == Lower(name)) return task;
    names.push_back(task.name);
  }
  const std::string near = Nearest(name, names);
  return InvalidArgument("UNKNOWN_TASK", fmt::format("no task \"{}\"{}; known are {}", name,
                                                     near.empty() ? "" : fmt::format(" (did you mean {}?)", near),
                                                     fmt::join(names, ", ")));
}

}  // namespace sbora::client
