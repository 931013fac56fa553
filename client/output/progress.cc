#include "client/output/progress.h"

#include <fmt/format.h>

#include <algorithm>

#include "client/output/format.h"
#include "client/output/resources.h"

namespace sbora::client {
namespace {

constexpr size_t kBarWidth = 24;
constexpr const char* kClearLine = "\r\033[K";

std::string Bar(double fraction) {
  const auto filled = static_cast<size_t>(std::clamp(fraction, 0.0, 1.0) * static_cast<double>(kBarWidth) + 0.5);
  return "[" + std::string(filled, '#') + std::string(kBarWidth - filled, '-') + "]";
}

}  // namespace

std::string RenderJobProgress(v1::FineTuningJob::State state, const v1::JobProgress& progress, size_t width) {
  std::string text = fmt::format("{:<9}", StateName(state));
  if (progress.total_steps() > 0) {
    const double fraction = static_cast<double>(progress.step()) / static_cast<double>(progress.total_steps());
    text += fmt::format("  {}  step {}/{}", Bar(fraction), progress.step(), progress.total_steps());
    if (progress.step() > 0) text += fmt::format("  loss {:.4f}", progress.loss());
  } else if (!progress.phase().empty()) {
    text += "  " + progress.phase();
  }
  if (progress.tokens_per_second() > 0) text += fmt::format("  {:.0f} tokens/s", progress.tokens_per_second());
  if (progress.remaining_seconds() > 0) text += "  ETA " + FormatSeconds(progress.remaining_seconds());
  text.erase(text.find_last_not_of(' ') + 1);
  return OneLine(text, width);
}

std::string RenderEvaluationProgress(const v1::EvaluationJob& job) {
  std::string text = StateName(job.state());
  if (job.samples_total() > 0) {
    const double fraction = static_cast<double>(job.samples_done()) / static_cast<double>(job.samples_total());
    text = fmt::format("{:<9}  {}  {}/{} samples", text, Bar(fraction), job.samples_done(), job.samples_total());
  }
  return text;
}

std::string RenderTransferProgress(const std::string& what, int64_t done_bytes, int64_t total_bytes) {
  const double percent =
      total_bytes == 0 ? 100.0 : 100.0 * static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
  return fmt::format("{}  {:.0f} %  ({} of {})", what, percent, FormatBytes(done_bytes), FormatBytes(total_bytes));
}

ProgressLine::ProgressLine(std::ostream& out, const Clock& clock, ProgressOptions options)
    : out_(out), clock_(clock), options_(options) {}

ProgressLine::~ProgressLine() { Finish(); }

void ProgressLine::Update(const std::string& headline, const std::string& text) {
  if (options_.quiet) return;
  const auto interval = options_.terminal ? options_.draw_interval : options_.line_interval;
  const bool due = !shown_at_ || clock_.Now() - *shown_at_ >= interval || headline != headline_;
  headline_ = headline;
  if (due) {
    Show(text);
  } else {
    pending_ = text;
  }
}

void ProgressLine::Note(const std::string& text) {
  if (options_.quiet) return;
  Clear();
  out_ << text << std::endl;
}

void ProgressLine::Finish() {
  if (!pending_.empty()) Show(pending_);
  if (drawn_) out_ << std::endl;
  drawn_ = false;
}

void ProgressLine::Show(const std::string& text) {
  if (options_.terminal) {
    out_ << kClearLine << text << std::flush;
    drawn_ = true;
  } else {
    out_ << text << std::endl;
  }
  shown_at_ = clock_.Now();
  pending_.clear();
}

void ProgressLine::Clear() {
  if (drawn_) out_ << kClearLine << std::flush;
  drawn_ = false;
}

}  // namespace sbora::client
