#include "client/output/comparison_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include "client/output/format.h"
#include "client/output/resources.h"

namespace sbora::client {
namespace {

// Pixels.
constexpr double kWidth = 1080;
constexpr double kMargin = 24;
constexpr double kGap = 32;
constexpr double kPanelWidth = (kWidth - 2 * kMargin - kGap) / 2;
constexpr double kLabelWidth = 132;
constexpr double kValueWidth = 138;
constexpr double kPlotWidth = kPanelWidth - kLabelWidth - kValueWidth;
constexpr double kRowHeight = 24;
constexpr double kPanelHead = 44;
constexpr double kPageHead = 76;

constexpr std::array kColors = {"#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b7791f", "#c53030", "#0987a0", "#4a5568"};

using Format = std::function<std::string(double)>;

struct Row {
  std::string label;
  std::optional<v1::Spread> spread = {};
  std::vector<double> values = {};  ///< of each seed
  std::string missing = {};         ///< said instead of a value
  const char* color = kColors[0];
};

struct Panel {
  std::string title;
  std::string hint;  ///< "lower is better"
  bool from_zero = true;
  Format format;
  std::vector<Row> rows = {};
  std::optional<double> base = {};  ///< a line across
};

std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

std::string Text(double x, double y, std::string_view css, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"{}\">{}</text>\n", x, y, css, Escape(text));
}

std::string LabelOf(const v1::ComparedMethod& method) {
  return method.rank() > 0 ? fmt::format("{} r{}", method.method(), method.rank()) : method.method();
}

/// A panel over all methods. `spread` null: the method does not have it; `value` of each run.
Panel MakePanel(const v1::MethodComparison& comparison, std::string title, std::string hint, bool from_zero, Format format,
                const std::function<const v1::Spread*(const v1::ComparedMethod&)>& spread,
                const std::function<std::optional<double>(const v1::ComparedRun&)>& value) {
  Panel panel{.title = std::move(title), .hint = std::move(hint), .from_zero = from_zero, .format = std::move(format)};
  for (int i = 0; i < comparison.methods_size(); ++i) {
    const v1::ComparedMethod& method = comparison.methods(i);
    Row row{.label = LabelOf(method), .color = kColors[static_cast<size_t>(i) % kColors.size()]};
    if (const v1::Spread* found = spread(method)) row.spread = *found;
    for (const v1::ComparedRun& run : method.runs()) {
      const bool counts = row.spread && run.state() == v1::FineTuningJob::STATE_SUCCEEDED;
      if (const auto one = counts ? value(run) : std::nullopt) row.values.push_back(*one);
    }
    if (!row.spread) row.missing = method.runs_size() == 0 ? "refused" : method.failure().empty() ? "not measured" : "failed";
    panel.rows.push_back(std::move(row));
  }
  return panel;
}

const v1::EvaluationResult* ResultOf(const google::protobuf::RepeatedPtrField<v1::ComparedEvaluation>& evaluations,
                                     const std::string& title) {
  for (const v1::ComparedEvaluation& evaluation : evaluations) {
    const bool has = evaluation.title() == title && evaluation.state() == v1::EvaluationJob::STATE_SUCCEEDED;
    if (has) return &evaluation.result();
  }
  return nullptr;
}

double AccuracyOf(const v1::EvaluationResult& result) {
  return result.subjects_size() > 0 ? result.subject_mean() : result.accuracy();
}

bool AnyRow(const Panel& panel) {
  return std::any_of(panel.rows.begin(), panel.rows.end(), [](const Row& row) { return row.spread.has_value(); });
}

void AddEvaluationPanels(const v1::MethodComparison& comparison, int index, std::vector<Panel>& panels) {
  const std::string title = comparison.methods(0).evaluations(index).title();
  const v1::EvaluationResult* base = ResultOf(comparison.base_evaluations(), title);
  const auto figure = [title](const auto& of) {
    return [title, of](const v1::ComparedRun& run) -> std::optional<double> {
      const v1::EvaluationResult* result = ResultOf(run.evaluations(), title);
      return result == nullptr ? std::nullopt : std::optional<double>(of(*result));
    };
  };
  Panel accuracy = MakePanel(
      comparison, title + ": right answers", "higher is better", false, [](double v) { return fmt::format("{:.2f} %", 100 * v); },
      [index](const auto& m) { return m.evaluations(index).has_accuracy() ? &m.evaluations(index).accuracy() : nullptr; },
      figure(AccuracyOf));
  Panel perplexity = MakePanel(
      comparison, title + ": perplexity", "lower is better", false, [](double v) { return fmt::format("{:.4g}", v); },
      [index](const auto& m) { return m.evaluations(index).has_perplexity() ? &m.evaluations(index).perplexity() : nullptr; },
      figure([](const v1::EvaluationResult& result) { return result.perplexity(); }));
  if (base != nullptr && AnyRow(accuracy)) accuracy.base = AccuracyOf(*base);
  if (base != nullptr && base->perplexity() > 0) perplexity.base = base->perplexity();
  panels.push_back(std::move(accuracy));
  panels.push_back(std::move(perplexity));
}

std::vector<Panel> PanelsOf(const v1::MethodComparison& comparison) {
  std::vector<Panel> panels;
  const Format loss = [](double v) { return fmt::format("{:.4f}", v); };
  const Format bytes = [](double v) { return FormatBytes(static_cast<int64_t>(v)); };
  panels.push_back(MakePanel(
      comparison, "Validation loss", "lower is better", false, loss,
      [](const auto& m) { return m.has_validation_loss() ? &m.validation_loss() : nullptr; },
      [](const auto& run) {
        return run.result().has_validation_loss() ? std::optional(run.result().validation_loss()) : std::nullopt;
      }));
  if (!AnyRow(panels.back())) {
    panels.back() = MakePanel(
        comparison, "Training loss of the last step", "lower is better", false, loss,
        [](const auto& m) { return m.has_final_loss() ? &m.final_loss() : nullptr; },
        [](const auto& run) { return std::optional(run.result().final_loss()); });
  }
  const int evaluations = comparison.methods_size() > 0 ? comparison.methods(0).evaluations_size() : 0;
  for (int e = 0; e < evaluations; ++e) AddEvaluationPanels(comparison, e, panels);
  panels.push_back(MakePanel(
      comparison, "Training tokens a second", "higher is better", true,
      [](double v) { return fmt::format("{:.1f}", v); },
      [](const auto& m) { return m.has_tokens_per_second() ? &m.tokens_per_second() : nullptr; },
      [](const auto& run) { return std::optional(run.result().tokens_per_second()); }));
  panels.push_back(MakePanel(
      comparison, "Peak memory of the trainer", "lower is better", true, bytes,
      [](const auto& m) { return m.has_peak_memory_bytes() ? &m.peak_memory_bytes() : nullptr; },
      [](const auto& run) { return std::optional(static_cast<double>(run.result().peak_memory_bytes())); }));
  panels.push_back(MakePanel(
      comparison, "Artifact", "lower is better", true, bytes,
      [](const auto& m) { return m.has_artifact_bytes() ? &m.artifact_bytes() : nullptr; },
      [](const auto& run) { return std::optional(static_cast<double>(run.artifact_bytes())); }));
  Panel parameters{.title = "Trained parameters", .hint = "", .from_zero = true,
                   .format = [](double v) { return FormatCount(static_cast<int64_t>(v)); }};
  for (int i = 0; i < comparison.methods_size(); ++i) {
    const v1::ComparedMethod& method = comparison.methods(i);
    Row row{.label = LabelOf(method), .color = kColors[static_cast<size_t>(i) % kColors.size()]};
    const auto count = static_cast<double>(method.trainable_parameters());
    if (count > 0) {
      row.spread.emplace().set_count(1);
      row.spread->set_mean(count);
      row.values = {count};
    }
    row.missing = count > 0 ? "" : "not known";
    parameters.rows.push_back(std::move(row));
  }
  panels.push_back(std::move(parameters));
  std::erase_if(panels, [](const Panel& panel) { return !AnyRow(panel); });
  return panels;
}

/// From what a panel shows to pixels right of its plot's left edge.
struct Axis {
  double low = 0;
  double high = 1;

  double X(double value) const { return kPlotWidth * (value - low) / (high - low); }
};

Axis AxisOf(const Panel& panel) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  const auto take = [&](double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  };
  for (const Row& row : panel.rows) std::for_each(row.values.begin(), row.values.end(), take);
  if (panel.base) take(*panel.base);
  if (panel.from_zero) return {0, high > 0 ? high : 1};
  const double padding = high > low ? 0.08 * (high - low) : std::max(1e-6, 0.05 * std::abs(high));
  return {low - padding, high + padding};
}

std::string RenderRow(const Panel& panel, const Row& row, const Axis& axis, double x, double y) {
  std::string out = Text(x + kLabelWidth - 10, y + 5, "label end", OneLine(row.label, 22));
  const double left = x + kLabelWidth;
  if (!row.spread) return out + Text(left + kPlotWidth + 10, y + 5, "missing", row.missing);
  const double mean = left + axis.X(row.spread->mean());
  if (panel.from_zero) {
    out += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"14\" rx=\"2\" fill=\"{}\" fill-opacity=\"0.8\"/>\n",
                       left, y - 7, std::max(1.0, mean - left), row.color);
  } else {
    out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" class=\"track\"/>\n", left,
                       left + kPlotWidth, y);
    out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" stroke=\"{3}\" stroke-width=\"3\"/>\n",
                       mean, y - 8, y + 8, row.color);
  }
  if (row.values.size() > 1) {
    for (const double value : row.values) {
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\" fill=\"{}\" class=\"seed\"/>\n", left + axis.X(value), y,
                         row.color);
    }
  }
  std::string value = panel.format(row.spread->mean());
  if (row.spread->count() > 1) value += " ± " + panel.format(row.spread->standard_deviation());
  return out + Text(left + kPlotWidth + 10, y + 5, "value", value);
}

std::string RenderPanel(const Panel& panel, double x, double y) {
  const Axis axis = AxisOf(panel);
  std::string out = Text(x, y + 14, "title", panel.title);
  out += Text(x + kPanelWidth, y + 14, "hint end", panel.hint);
  const double left = x + kLabelWidth;
  const double bottom = y + kPanelHead + kRowHeight * static_cast<double>(panel.rows.size()) - 8;
  if (!panel.from_zero) {
    out += Text(left, y + 31, "hint", panel.format(axis.low));
    out += Text(left + kPlotWidth, y + 31, "hint end", panel.format(axis.high));
  }
  if (panel.base) {
    const double at = left + axis.X(*panel.base);
    out += fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1:.1f}\" y2=\"{2:.1f}\" class=\"base\"/>\n", at, y + kPanelHead - 8,
                       bottom);
    out += Text(left + kPlotWidth + 10, y + 31, "hint", fmt::format("base {} (dashed)", panel.format(*panel.base)));
  }
  double row_y = y + kPanelHead + kRowHeight / 2 - 4;
  for (const Row& row : panel.rows) {
    out += RenderRow(panel, row, axis, x, row_y);
    row_y += kRowHeight;
  }
  return out;
}

constexpr std::string_view kStyle = R"(<style>
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1a202c; }
.page { font-size: 20px; font-weight: 600; } .sub, .hint, .missing { fill: #5a6577; } .hint { font-size: 11px; }
.title { font-size: 14px; font-weight: 600; } .value { font-size: 12px; font-variant-numeric: tabular-nums; }
.missing { font-style: italic; font-size: 12px; } .end { text-anchor: end; }
.track { stroke: #e2e8f0; stroke-width: 1; } .base { stroke: #4a5568; stroke-width: 1; stroke-dasharray: 4 3; }
.seed { fill-opacity: 0.55; stroke: #ffffff; stroke-width: 1; }
</style>
)";

std::string Subtitle(const v1::MethodComparison& comparison) {
  const bool one = comparison.seeds_size() == 1;
  return fmt::format("{} on {} · {} · {}", ShortName(comparison.spec().model()), ShortName(comparison.spec().dataset()),
                     comparison.match_parameters() ? "matched parameter counts" : "equal ranks",
                     one ? std::string("one seed")
                         : fmt::format("{} seeds: dots are runs, numbers mean ± standard deviation", comparison.seeds_size()));
}

}  // namespace

std::string RenderSvg(const v1::MethodComparison& comparison) {
  const std::vector<Panel> panels = PanelsOf(comparison);
  const double panel_height = kPanelHead + kRowHeight * static_cast<double>(std::max(1, comparison.methods_size())) + 20;
  const auto lines = static_cast<double>((panels.size() + 1) / 2);
  const double height = kPageHead + lines * panel_height + kMargin;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} {1:.0f}\" role=\"img\">\n",
      kWidth, height);
  out += fmt::format("<title>{}</title>\n{}", Escape("Comparison " + comparison.name()), kStyle);
  out += fmt::format("<rect width=\"{:.0f}\" height=\"{:.0f}\" fill=\"#ffffff\"/>\n", kWidth, height);
  out += Text(kMargin, 34, "page", "Comparison " + comparison.name());
  out += Text(kMargin, 56, "sub", Subtitle(comparison));
  for (size_t i = 0; i < panels.size(); ++i) {
    const double x = kMargin + static_cast<double>(i % 2) * (kPanelWidth + kGap);
    out += RenderPanel(panels[i], x, kPageHead + static_cast<double>(i / 2) * panel_height);
  }
  return out + "</svg>\n";
}

std::string RenderHtml(const v1::MethodComparison& comparison) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\n<style>body {{ margin: 0 auto; max-width: "
      "{:.0f}px; }} pre {{ margin: 0 {:.0f}px 32px; font: 12px/1.5 ui-monospace, \"DejaVu Sans Mono\", monospace; overflow-x: auto; "
      "}} svg {{ max-width: 100%; height: auto; }}</style></head>\n<body>\n{}<pre>{}</pre>\n</body></html>\n",
      Escape("Comparison " + comparison.name()), kWidth, kMargin, RenderSvg(comparison),
      [&] {
        std::string table;
        for (const char c : ToTable(comparison)) table += c == '\n' ? std::string("\n") : Escape(std::string_view(&c, 1));
        return table;
      }());
}

}  // namespace sbora::client
