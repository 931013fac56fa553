#include "client/interrupt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <future>

namespace sbora::client {
namespace {

/// Blocks until the token's stop is requested.
void WaitForStop(const std::stop_token& token) {
  std::promise<void> stopped;
  const std::stop_callback callback(token, [&] { stopped.set_value(); });
  stopped.get_future().wait();
}

const Status kStopped = Cancelled("STOPPED", "stopped watching");

TEST(WaitScope, InterruptRequestsAStopAndSaysWhatGoesOn) {
  WaitScope wait(std::nullopt);
  ::raise(SIGINT);
  WaitForStop(wait.token());
  const Status status = wait.Explain(kStopped, "job j goes on");
  EXPECT_EQ(status.reason(), "INTERRUPTED");
  EXPECT_THAT(status.message(), ::testing::HasSubstr("job j goes on"));
}

TEST(WaitScope, SecondInterruptEndsTheProgram) {
  EXPECT_EXIT(
      {
        WaitScope wait(std::nullopt);
        ::raise(SIGINT);
        ::raise(SIGINT);
      },
      ::testing::KilledBySignal(SIGINT), "");
}

TEST(WaitScope, TimeoutIsDeadlineExceeded) {
  WaitScope wait(0.001);
  WaitForStop(wait.token());
  EXPECT_EQ(wait.Explain(kStopped, "").reason(), "WAIT_TIMEOUT");
}

TEST(WaitScope, OtherErrorsStayAndTheEndWaitsForNothing) {
  const WaitScope wait(3600);
  EXPECT_EQ(wait.Explain(NotFound("JOB_NOT_FOUND", "x"), "").reason(), "JOB_NOT_FOUND");
  EXPECT_EQ(wait.Explain(kStopped, "").reason(), "STOPPED");
}

}  // namespace
}  // namespace sbora::client
