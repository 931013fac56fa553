#include "client/output/progress.h"

#include <gtest/gtest.h>

#include <sstream>

namespace sbora::client {
namespace {

class SetClock : public Clock {
 public:
  MonotonicTime Now() const override { return now; }
  WallTime WallNow() const override { return {}; }
  bool SleepUntil(MonotonicTime, const std::stop_token&) const override { return true; }
  MonotonicTime now{};
};

v1::JobProgress SampleProgress() {
  v1::JobProgress progress;
  progress.set_step(20);
  progress.set_total_steps(80);
  progress.set_loss(0.43214);
  progress.set_tokens_per_second(312.4);
  progress.set_remaining_seconds(200);
  return progress;
}

TEST(RenderJobProgress, ShowsStepLossSpeedAndEta) {
  EXPECT_EQ(RenderJobProgress(v1::FineTuningJob::STATE_RUNNING, SampleProgress(), 120),
            "RUNNING    [######------------------]  step 20/80  loss 0.4321  312 tokens/s  ETA 3 min 20 s");
}

TEST(RenderJobProgress, BeforeTheFirstStepShowsThePhase) {
  v1::JobProgress progress;
  progress.set_phase("fetching model (3 of 5 files)");
  EXPECT_EQ(RenderJobProgress(v1::FineTuningJob::STATE_STARTING, progress, 120),
            "STARTING   fetching model (3 of 5 files)");
  EXPECT_EQ(RenderJobProgress(v1::FineTuningJob::STATE_QUEUED, {}, 120), "QUEUED");
}

TEST(RenderJobProgress, FitsTheWidth) {
  EXPECT_LE(RenderJobProgress(v1::FineTuningJob::STATE_RUNNING, SampleProgress(), 40).size(), 40u);
}

TEST(RenderTransferProgress, EmptyFileIsDone) {
  EXPECT_EQ(RenderTransferProgress("uploading", 0, 0), "uploading  100 %  (0 B of 0 B)");
}

TEST(ProgressLine, WithoutATerminalWritesPlainLinesSparsely) {
  std::ostringstream out;
  SetClock clock;
  {
    ProgressLine line(out, clock, {.terminal = false});
    line.Update("RUNNING", "step 1");
    line.Update("RUNNING", "step 2");  // too soon
    clock.now += std::chrono::seconds(6);
    line.Update("RUNNING", "step 3");
    line.Update("CANCELLING", "ending");  // a new headline is shown at once
    line.Update("CANCELLING", "last");
  }
  EXPECT_EQ(out.str(), "step 1\nstep 3\nending\nlast\n");
}

TEST(ProgressLine, OnATerminalDrawsOverItselfAndKeepsNotes) {
  std::ostringstream out;
  SetClock clock;
  {
    ProgressLine line(out, clock, {.terminal = true});
    line.Update("a", "one");
    line.Note("note");
    clock.now += std::chrono::seconds(1);
    line.Update("a", "two");
  }
  EXPECT_EQ(out.str(), "\r\033[Kone\r\033[Knote\n\r\033[Ktwo\n");
}

TEST(ProgressLine, QuietWritesNothing) {
  std::ostringstream out;
  SetClock clock;
  {
    ProgressLine line(out, clock, {.terminal = true, .quiet = true});
    line.Update("a", "one");
    line.Note("note");
  }
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace sbora::client
