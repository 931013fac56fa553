#include "client/compare_evaluations.h"

#include <fmt/format.h>
#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "client/output/format.h"
#include "common/status_macros.h"

namespace sbora::client {
namespace {

/// What must agree for figures to be comparable.
v1::EvaluationSpec Settings(v1::EvaluationSpec spec) {
  spec.clear_model();
  spec.clear_adapter();
  spec.clear_base_quantization();  // a base is compared with its own form in NF4
  spec.clear_double_quantization();
  spec.clear_device();
  spec.clear_threads();
  spec.mutable_generation()->clear_batch_size();
  return spec;
}

Status NotComparable(const v1::EvaluationJob& first, const v1::EvaluationJob& other, const std::string& why) {
  return FailedPrecondition("NOT_COMPARABLE", fmt::format("{} and {} cannot be compared: {}", ShortName(first.name()),
                                                          ShortName(other.name()), why));
}

Status CheckSettings(const v1::EvaluationJob& first, const v1::EvaluationJob& other) {
  google::protobuf::util::MessageDifferencer differencer;
  std::string differences;
  differencer.ReportDifferencesToString(&differences);
  if (differencer.Compare(Settings(first.spec()), Settings(other.spec()))) return OkStatus();
  differences.erase(differences.find_last_not_of('\n') + 1);
  std::replace(differences.begin(), differences.end(), '\n', ';');
  return NotComparable(first, other, differences);
}

StatusOr<v1::PairedComparison> Pair(const v1::EvaluationJob& first, const ScoredExamples& of_first,
                                    const v1::EvaluationJob& other, const ScoredExamples& of_other) {
  v1::PairedComparison paired;
  paired.set_evaluation(other.name());
  if (of_first.size() != of_other.size()) {
    return NotComparable(first, other, fmt::format("they have {} and {} examples", of_first.size(), of_other.size()));
  }
  for (const auto& [index, example] : of_first) {
    const auto found = of_other.find(index);
    if (found == of_other.end() || found->second.expected != example.expected) {
      return NotComparable(first, other, fmt::format("example {} is not the same in both", index));
    }
    paired.set_gained(paired.gained() + (found->second.match && !example.match ? 1 : 0));
    paired.set_lost(paired.lost() + (!found->second.match && example.match ? 1 : 0));
  }
  paired.set_p_value(McNemarPValue(paired.gained(), paired.lost()));
  return paired;
}

}  // namespace

StatusOr<ScoredExamples> ParseExamples(std::string_view jsonl) {
  ScoredExamples examples;
  int64_t line = 0;
  while (!jsonl.empty()) {
    ++line;
    const size_t end = std::min(jsonl.find('\n'), jsonl.size());
    const auto json = nlohmann::json::parse(jsonl.substr(0, end), nullptr, /*allow_exceptions=*/false);
    jsonl.remove_prefix(std::min(end + 1, jsonl.size()));
    const bool good = json.is_object() && json.contains("index") && json["index"].is_number_integer() &&
                      json.contains("match") && json["match"].is_boolean() && json.contains("expected") &&
                      json["expected"].is_string();
    if (!good) {
      return DataLoss("BAD_EXAMPLES", fmt::format("line {} of the examples has no index, expected and match: the file "
                                                  "is damaged, or of another version; evaluate again", line));
    }
    examples[json["index"].get<int64_t>()] = {json["expected"].get<std::string>(), json["match"].get<bool>()};
  }
  return examples;
}

StatusOr<v1::EvaluationComparison> CompareEvaluations(const std::vector<v1::EvaluationJob>& jobs,
                                                      const std::vector<ScoredExamples>& examples) {
  if (jobs.size() < 2 || examples.size() != jobs.size()) {
    return InvalidArgument("USAGE", "name at least two evaluations to compare");
  }
  v1::EvaluationComparison comparison;
  for (size_t i = 0; i < jobs.size(); ++i) {
    if (jobs[i].state() != v1::EvaluationJob::STATE_SUCCEEDED) {
      return FailedPrecondition("NOT_SUCCEEDED",
                                fmt::format("{} has no result to compare; see sbora-client evaluations get {}",
                                            jobs[i].name(), ShortName(jobs[i].name())));
    }
    SBORA_RETURN_IF_ERROR(CheckSettings(jobs[0], jobs[i]));
    v1::EvaluationJob& job = *comparison.add_evaluations();
    job = jobs[i];
    job.mutable_result()->clear_examples();
    if (i == 0) continue;
    SBORA_ASSIGN_OR_RETURN(*comparison.add_against_first(), Pair(jobs[0], examples[0], jobs[i], examples[i]));
  }
  return comparison;
}

double McNemarPValue(int64_t gained, int64_t lost) {
  const int64_t n = gained + lost;
  double tail = 0;
  for (int64_t i = 0; i <= std::min(gained, lost); ++i) {
    const auto log_choose = std::lgamma(static_cast<double>(n + 1)) - std::lgamma(static_cast<double>(i + 1)) -
                            std::lgamma(static_cast<double>(n - i + 1));
    tail += std::exp(log_choose - static_cast<double>(n) * std::log(2.0));
  }
  return std::min(1.0, 2.0 * tail);
}

}  // namespace sbora::client
