/// Progress on stderr: one line that is drawn over on a terminal, plain lines now and then elsewhere.
#pragma once

#include <chrono>
#include <optional>
#include <ostream>
#include <string>

#include "common/clock.h"
#include "sbora/v1/evaluation.pb.h"
#include "sbora/v1/job.pb.h"

namespace sbora::client {

/// "RUNNING  [#####---------------]  step 20/80  loss 0.4321  312 tokens/s  ETA 3 min 20 s", at most `width` wide.
std::string RenderJobProgress(v1::FineTuningJob::State state, const v1::JobProgress& progress, size_t width);
std::string RenderEvaluationProgress(const v1::EvaluationJob& job);
/// "uploading  45 %  (60.0 MiB of 134.0 MiB)".
std::string RenderTransferProgress(const std::string& what, int64_t done_bytes, int64_t total_bytes);

struct ProgressOptions {
  /// Draw over the line; otherwise lines, at most one in `line_interval` unless the headline changes.
  bool terminal = false;
  bool quiet = false;
  std::chrono::milliseconds draw_interval{100};
  std::chrono::milliseconds line_interval{5000};
};

/// Not thread-safe. The destructor ends the line.
class ProgressLine {
 public:
  /// `out` and `clock` must outlive the object.
  ProgressLine(std::ostream& out, const Clock& clock, ProgressOptions options);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  /// Shows `text` if it is time; `headline` (a state, for example) makes it time when it changes.
  void Update(const std::string& headline, const std::string& text);
  /// A line of its own that stays; the progress line comes back below it.
  void Note(const std::string& text);
  /// Shows the newest text, if it was held back, and ends the line.
  void Finish();

 private:
  void Show(const std::string& text);
  void Clear();

  std::ostream& out_;
  const Clock& clock_;
  const ProgressOptions options_;
  std::optional<MonotonicTime> shown_at_;
  std::string headline_;
  std::string pending_;
  bool drawn_ = false;
};

}  // namespace sbora::client
