#include <fmt/format.h>

#include "client/output/format.h"
#include "client/output/resources.h"

namespace sbora::client {
namespace {

/// "1.2345 ± 0.0012", without the spread for one value; "" for none. `sign`: of a mean above 0, "+" for differences.
template <typename Format>
std::string SpreadText(bool has, const v1::Spread& spread, const Format& format, std::string_view sign = "") {
  if (!has) return "";
  const std::string mean = (spread.mean() > 0 ? std::string(sign) : std::string()) + format(spread.mean());
  return spread.count() < 2 ? mean : fmt::format("{} ± {}", mean, format(spread.standard_deviation()));
}

std::string Loss(double value) { return fmt::format("{:.4f}", value); }
std::string Share(double value) { return fmt::format("{:.2f} %", 100 * value); }
std::string Speed(double value) { return value < 10 ? fmt::format("{:.2f}", value) : fmt::format("{:.0f}", value); }
std::string Bytes(double value) { return FormatBytes(static_cast<int64_t>(value)); }
std::string Perplexity(double value) { return fmt::format("{:.4g}", value); }

/// Titles of the evaluations, and whether any method has that figure of them.
struct EvaluationColumns {
  std::string title;
  bool accuracy = false;
  bool perplexity = false;
};

std::vector<EvaluationColumns> ColumnsOf(const v1::MethodComparison& comparison) {
  std::vector<EvaluationColumns> columns;
  if (comparison.methods_size() == 0) return columns;
  for (int e = 0; e < comparison.methods(0).evaluations_size(); ++e) {
    EvaluationColumns column{.title = comparison.methods(0).evaluations(e).title()};
    for (const v1::ComparedMethod& method : comparison.methods()) {
      column.accuracy |= method.evaluations(e).has_accuracy();
      column.perplexity |= method.evaluations(e).has_perplexity();
    }
    columns.push_back(std::move(column));
  }
  return columns;
}

std::vector<std::string> MethodRow(const v1::ComparedMethod& method, const std::vector<EvaluationColumns>& columns) {
  std::vector<std::string> row = {
      method.method(),
      method.rank() > 0 ? std::to_string(method.rank()) : "",
      method.trainable_parameters() > 0 ? FormatCount(method.trainable_parameters()) : "",
      SpreadText(method.has_validation_loss(), method.validation_loss(), Loss),
      SpreadText(method.has_validation_loss_difference(), method.validation_loss_difference(), Loss, "+"),
  };
  for (size_t e = 0; e < columns.size(); ++e) {
    const v1::EvaluationSpread& spread = method.evaluations(static_cast<int>(e));
    if (columns[e].accuracy) row.push_back(SpreadText(spread.has_accuracy(), spread.accuracy(), Share));
    if (columns[e].perplexity) row.push_back(SpreadText(spread.has_perplexity(), spread.perplexity(), Perplexity));
  }
  row.push_back(SpreadText(method.has_tokens_per_second(), method.tokens_per_second(), Speed));
  row.push_back(SpreadText(method.has_peak_memory_bytes(), method.peak_memory_bytes(), Bytes));
  row.push_back(method.has_artifact_bytes() ? Bytes(method.artifact_bytes().mean()) : "");
  return row;
}

std::vector<std::string> BaseRow(const v1::MethodComparison& comparison, const std::vector<EvaluationColumns>& columns) {
  std::vector<std::string> row = {"base", "", "0", "", ""};
  for (const EvaluationColumns& column : columns) {
    const v1::EvaluationResult* result = nullptr;
    for (const v1::ComparedEvaluation& evaluation : comparison.base_evaluations()) {
      const bool has = evaluation.title() == column.title && evaluation.state() == v1::EvaluationJob::STATE_SUCCEEDED;
      if (has) result = &evaluation.result();
    }
    const double accuracy = result == nullptr ? 0 : result->subjects_size() > 0 ? result->subject_mean() : result->accuracy();
    if (column.accuracy) row.push_back(result == nullptr ? "" : Share(accuracy));
    if (column.perplexity) row.push_back(result == nullptr ? "" : Perplexity(result->perplexity()));
  }
  row.resize(row.size() + 3);
  return row;
}

}  // namespace

std::string ToTable(const v1::MethodComparison& comparison) {
  const std::vector<EvaluationColumns> columns = ColumnsOf(comparison);
  std::vector<std::string> header = {"METHOD", "RANK", "PARAMETERS", "VALIDATION LOSS", "- FIRST"};
  for (const EvaluationColumns& column : columns) {
    if (column.accuracy) header.push_back(column.title);
    if (column.perplexity) header.push_back(column.title + " PERPLEXITY");
  }
  header.insert(header.end(), {"TOKENS/S", "PEAK MEMORY", "ARTIFACT"});
  std::vector<std::vector<std::string>> rows;
  for (const v1::ComparedMethod& method : comparison.methods()) rows.push_back(MethodRow(method, columns));
  if (comparison.base_evaluations_size() > 0) rows.push_back(BaseRow(comparison, columns));
  std::string out = fmt::format("{}: {} on {}, {} seed{}, {}\n\n", comparison.name(), ShortName(comparison.spec().model()),
                                ShortName(comparison.spec().dataset()), comparison.seeds_size(),
                                comparison.seeds_size() == 1 ? "" : "s, mean ± standard deviation",
                                comparison.match_parameters() ? "matched parameter counts" : "equal ranks");
  out += FormatTable(header, rows);
  for (const v1::ComparedMethod& method : comparison.methods()) {
    if (!method.failure().empty()) out += fmt::format("\n{}: {}", method.method(), method.failure());
  }
  for (const v1::ComparedEvaluation& evaluation : comparison.base_evaluations()) {
    if (evaluation.state() == v1::EvaluationJob::STATE_SUCCEEDED) continue;
    out += fmt::format("\nbase, {}: {} {}", evaluation.title(), StateName(evaluation.state()), evaluation.failure().message());
  }
  for (const std::string& note : comparison.notes()) out += "\n" + note;
  if (out.back() != '\n') out += '\n';
  return out;
}

}  // namespace sbora::client
