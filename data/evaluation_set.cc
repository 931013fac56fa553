#include "data/evaluation_set.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "common/status_macros.h"

namespace sbora::data {
namespace {

constexpr int64_t kShownProblems = 20;

std::string ReferenceOf(const Record& record) {
  switch (record.format) {
    case DatasetFormat::kAlpaca: return record.output;
    case DatasetFormat::kPromptCompletion:
    case DatasetFormat::kChoice: return record.completion;
    case DatasetFormat::kChat: {
      const auto last = std::find_if(record.messages.rbegin(), record.messages.rend(),
                                     [](const Message& message) { return message.role == "assistant"; });
      return last == record.messages.rend() ? std::string() : last->content;
    }
    case DatasetFormat::kAuto: break;
  }
  return {};
}

/// The expected answer, or why there is none.
std::string Expect(const AnswerRule& rule, const std::string& reference, const Record& record, std::string& expected) {
  if (rule.scoring == Scoring::kExactMatch) {
    expected = reference;
    return {};
  }
  if (!record.answer.empty()) {
    expected = record.answer;
    return CheckExpected(rule, expected);
  }
  const auto found = FindAnswer(rule, reference);
  if (!found) return fmt::format("no field \"answer\", and the response holds none by {}", ScoringName(rule.scoring));
  expected = *found;
  return CheckExpected(rule, expected);
}

/// Collects what is wrong with a data set as one status.
class Problems {
 public:
  void Add(int64_t line, std::string why) {
    if (++count_ <= kShownProblems) shown_.emplace_back(fmt::format("line {}", line), std::move(why));
  }
  Status ToStatus(int64_t records, std::string_view file) const {
    if (count_ == 0) return OkStatus();
    Status bad = InvalidArgument("UNKNOWN_ANSWER",
                                 fmt::format("{}: {} of {} records have no answer that could be right (first: {}, {}); "
                                             "mend them, or choose another scoring",
                                             file, count_, records, shown_[0].first, shown_[0].second));
    for (const auto& [where, why] : shown_) bad = bad.WithViolation(where, why);
    return bad;
  }

 private:
  int64_t count_ = 0;
  std::vector<std::pair<std::string, std::string>> shown_;
};

Status ForEachRecord(const std::filesystem::path& path, DatasetFormat format,
                     const std::function<Status(Record)>& visit) {
  SBORA_ASSIGN_OR_RETURN(const auto reader, DatasetReader::Open(path, {.format = format}));
  for (;;) {
    SBORA_ASSIGN_OR_RETURN(auto record, reader->Next());
    if (!record) break;
    SBORA_RETURN_IF_ERROR(visit(*std::move(record)));
  }
  return ToStatus(reader->stats(), path.filename().string());
}

Status NoChoices(const Record& record, Scoring scoring) {
  return InvalidArgument(
      "NO_CHOICES",
      fmt::format("line {}: {} needs records of {{\"question\", \"choices\", \"answer\"}}, this data set has {}",
                  record.line, ScoringName(scoring), DatasetFormatName(record.format)));
}

StatusOr<std::map<std::string, std::vector<Record>>> ReadFewShots(const EvaluationInputs& inputs) {
  std::map<std::string, std::vector<Record>> shots;
  if (inputs.few_shots == 0 || inputs.few_shot_dataset.empty()) return shots;
  SBORA_RETURN_IF_ERROR(ForEachRecord(inputs.few_shot_dataset, inputs.few_shot_format, [&](Record record) -> Status {
    if (record.format != DatasetFormat::kChoice) return NoChoices(record, inputs.rule.scoring);
    auto& of_subject = shots[record.subject];
    if (std::ssize(of_subject) < inputs.few_shots) of_subject.push_back(std::move(record));
    return OkStatus();
  }));
  return shots;
}

Status CheckFewShots(const std::map<std::string, std::vector<Record>>& shots, const std::string& subject,
                     int64_t wanted) {
  const auto found = shots.find(subject);
  const int64_t count = found == shots.end() ? 0 : std::ssize(found->second);
  if (count >= wanted) return OkStatus();
  return InvalidArgument(
      "FEW_SHOTS_MISSING",
      fmt::format("the few-shot data set has {} of {} questions on the subject \"{}\"; upload one that has "
                  "more, or lower few_shots",
                  count, wanted, subject));
}

/// Reads and checks all; `keep` gets every good item.
Status Visit(const EvaluationInputs& inputs, const std::map<std::string, std::vector<Record>>& shots,
             const std::function<void(EvaluationItem)>& keep) {
  Problems problems;
  int64_t records = 0;
  std::set<std::string> subjects;
  SBORA_RETURN_IF_ERROR(ForEachRecord(inputs.dataset, inputs.format, [&](Record record) -> Status {
    if (ByLikelihood(inputs.rule.scoring) && record.format != DatasetFormat::kChoice)
      return NoChoices(record, inputs.rule.scoring);
    EvaluationItem item{.index = records++, .record = std::move(record), .reference = {}, .expected = {}};
    item.reference = ReferenceOf(item.record);
    if (std::string why = Expect(inputs.rule, item.reference, item.record, item.expected); !why.empty()) {
      problems.Add(item.record.line, std::move(why));
      return OkStatus();
    }
    if (inputs.few_shots > 0 && subjects.insert(item.record.subject).second) {
      SBORA_RETURN_IF_ERROR(CheckFewShots(shots, item.record.subject, inputs.few_shots));
    }
    keep(std::move(item));
    return OkStatus();
  }));
  return problems.ToStatus(records, inputs.dataset.filename().string());
}

}  // namespace

StatusOr<EvaluationSet> ReadEvaluationSet(const EvaluationInputs& inputs) {
  EvaluationSet set;
  SBORA_ASSIGN_OR_RETURN(set.few_shots, ReadFewShots(inputs));
  SBORA_RETURN_IF_ERROR(Visit(inputs, set.few_shots, [&](EvaluationItem item) {
    if (inputs.max_samples == 0 || std::ssize(set.items) < inputs.max_samples) set.items.push_back(std::move(item));
  }));
  return set;
}

Status CheckEvaluationSet(const EvaluationInputs& inputs) {
  SBORA_ASSIGN_OR_RETURN(const auto shots, ReadFewShots(inputs));
  return Visit(inputs, shots, [](EvaluationItem) {});
}

}  // namespace sbora::data
