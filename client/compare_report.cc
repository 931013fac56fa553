#include "client/compare_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "client/output/format.h"
#include "client/output/resources.h"

namespace sbora::client {
namespace {

/// A figure of a run, or nothing when the run does not have it.
using Figure = std::function<std::optional<double>(const v1::ComparedRun&)>;

bool Succeeded(const v1::ComparedRun& run) { return run.state() == v1::FineTuningJob::STATE_SUCCEEDED; }

std::optional<double> Positive(double value) { return value > 0 ? std::optional(value) : std::nullopt; }

std::map<uint64_t, double> BySeed(const v1::ComparedMethod& method, const Figure& figure) {
  std::map<uint64_t, double> values;
  for (const v1::ComparedRun& run : method.runs()) {
    if (!Succeeded(run)) continue;
    if (const auto value = figure(run)) values[run.seed()] = *value;
  }
  return values;
}

/// Null when no run has the figure, so that the field stays unset.
void SetSpread(const std::vector<double>& values, const std::function<v1::Spread*()>& field) {
  if (!values.empty()) *field() = SpreadOf(values);
}

std::vector<double> ValuesOf(const v1::ComparedMethod& method, const Figure& figure) {
  std::vector<double> values;
  for (const auto& [seed, value] : BySeed(method, figure)) values.push_back(value);
  return values;
}

/// This method's less the first one's, at the seeds that both have.
std::vector<double> Differences(const v1::ComparedMethod& method, const v1::ComparedMethod& first, const Figure& figure) {
  const std::map<uint64_t, double> theirs = BySeed(first, figure);
  std::vector<double> differences;
  for (const auto& [seed, value] : BySeed(method, figure)) {
    if (const auto other = theirs.find(seed); other != theirs.end()) differences.push_back(value - other->second);
  }
  return differences;
}

std::optional<double> ValidationLoss(const v1::ComparedRun& run) {
  return run.result().has_validation_loss() ? std::optional(run.result().validation_loss()) : std::nullopt;
}

/// Of the evaluation of that title in a run, when it succeeded.
const v1::EvaluationResult* ResultOf(const v1::ComparedRun& run, const std::string& title) {
  for (const v1::ComparedEvaluation& evaluation : run.evaluations()) {
    const bool has = evaluation.title() == title && evaluation.state() == v1::EvaluationJob::STATE_SUCCEEDED;
    if (has) return &evaluation.result();
  }
  return nullptr;
}

Figure AccuracyOf(const std::string& title) {
  return [title](const v1::ComparedRun& run) -> std::optional<double> {
    const v1::EvaluationResult* result = ResultOf(run, title);
    if (result == nullptr || result->samples() == 0) return std::nullopt;
    return result->subjects_size() > 0 ? result->subject_mean() : result->accuracy();
  };
}

Figure PerplexityOf(const std::string& title) {
  return [title](const v1::ComparedRun& run) -> std::optional<double> {
    const v1::EvaluationResult* result = ResultOf(run, title);
    return result == nullptr ? std::nullopt : Positive(result->perplexity());
  };
}

void SummarizeEvaluations(const std::vector<std::string>& titles, const v1::ComparedMethod* first, v1::ComparedMethod& method) {
  method.clear_evaluations();
  for (const std::string& title : titles) {
    v1::EvaluationSpread& spread = *method.add_evaluations();
    spread.set_title(title);
    SetSpread(ValuesOf(method, AccuracyOf(title)), [&] { return spread.mutable_accuracy(); });
    SetSpread(ValuesOf(method, PerplexityOf(title)), [&] { return spread.mutable_perplexity(); });
    if (first == nullptr) continue;
    SetSpread(Differences(method, *first, AccuracyOf(title)), [&] { return spread.mutable_accuracy_difference(); });
    SetSpread(Differences(method, *first, PerplexityOf(title)), [&] { return spread.mutable_perplexity_difference(); });
  }
}

std::string FailuresOf(const v1::ComparedMethod& method) {
  std::vector<std::string> failures;
  for (const v1::ComparedRun& run : method.runs()) {
    if (!Succeeded(run)) {
      failures.push_back(fmt::format("{} {}: {}", ShortName(run.job()), StateName(run.state()), run.failure().message()));
    }
    for (const v1::ComparedEvaluation& evaluation : run.evaluations()) {
      if (evaluation.state() == v1::EvaluationJob::STATE_SUCCEEDED) continue;
      failures.push_back(fmt::format("{} on seed {} {}: {}", evaluation.title(), run.seed(), StateName(evaluation.state()),
                                     evaluation.failure().message()));
    }
  }
  if (failures.empty()) return "";
  return failures.size() == 1 ? failures.front() : fmt::format("{} (and {} more)", failures.front(), failures.size() - 1);
}

std::vector<std::string> TitlesOf(const v1::MethodComparison& comparison) {
  std::vector<std::string> titles;
  const auto add = [&](const v1::ComparedEvaluation& evaluation) {
    if (std::find(titles.begin(), titles.end(), evaluation.title()) == titles.end()) titles.push_back(evaluation.title());
  };
  for (const v1::ComparedEvaluation& evaluation : comparison.base_evaluations()) add(evaluation);
  for (const v1::ComparedMethod& method : comparison.methods()) {
    for (const v1::ComparedRun& run : method.runs()) std::for_each(run.evaluations().begin(), run.evaluations().end(), add);
  }
  return titles;
}

}  // namespace

v1::Spread SpreadOf(const std::vector<double>& values) {
  v1::Spread spread;
  if (values.empty()) return spread;
  double sum = 0;
  for (const double value : values) sum += value;
  const double mean = sum / static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
  spread.set_count(static_cast<int32_t>(values.size()));
  spread.set_mean(mean);
  if (values.size() > 1) spread.set_standard_deviation(std::sqrt(squares / static_cast<double>(values.size() - 1)));
  spread.set_minimum(*least);
  spread.set_maximum(*greatest);
  return spread;
}

void Summarize(v1::MethodComparison& comparison) {
  const std::vector<std::string> titles = TitlesOf(comparison);
  const auto& methods = comparison.methods();
  const auto reference = std::find_if(methods.begin(), methods.end(), [](const auto& m) { return m.rank() > 0; });
  const int64_t parameters = reference == methods.end() ? 0 : reference->trainable_parameters();
  for (int i = 0; i < comparison.methods_size(); ++i) {
    v1::ComparedMethod& method = *comparison.mutable_methods(i);
    const v1::ComparedMethod* first = i == 0 ? nullptr : &comparison.methods(0);
    if (parameters > 0) {
      method.set_parameter_ratio(static_cast<double>(method.trainable_parameters()) / static_cast<double>(parameters));
    }
    SetSpread(ValuesOf(method, ValidationLoss), [&] { return method.mutable_validation_loss(); });
    SetSpread(ValuesOf(method, [](const auto& run) { return std::optional(run.result().final_loss()); }),
              [&] { return method.mutable_final_loss(); });
    SetSpread(ValuesOf(method, [](const auto& run) { return Positive(run.result().tokens_per_second()); }),
              [&] { return method.mutable_tokens_per_second(); });
    SetSpread(ValuesOf(method, [](const auto& run) { return Positive(static_cast<double>(run.result().peak_memory_bytes())); }),
              [&] { return method.mutable_peak_memory_bytes(); });
    SetSpread(ValuesOf(method, [](const auto& run) { return Positive(static_cast<double>(run.artifact_bytes())); }),
              [&] { return method.mutable_artifact_bytes(); });
    if (first != nullptr) {
      SetSpread(Differences(method, *first, ValidationLoss), [&] { return method.mutable_validation_loss_difference(); });
    }
    SummarizeEvaluations(titles, first, method);
    if (method.failure().empty()) method.set_failure(FailuresOf(method));
  }
}

bool AllSucceeded(const v1::MethodComparison& comparison) {
  const auto& base = comparison.base_evaluations();
  return std::all_of(base.begin(), base.end(),
                     [](const auto& evaluation) { return evaluation.state() == v1::EvaluationJob::STATE_SUCCEEDED; }) &&
         std::all_of(comparison.methods().begin(), comparison.methods().end(),
                     [](const auto& method) { return method.failure().empty(); });
}

}  // namespace sbora::client
