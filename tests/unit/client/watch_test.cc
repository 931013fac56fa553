#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/fake_server.h"

namespace sbora::client {
namespace {

using ::testing::ElementsAre;

constexpr const char* kJob = "projects/default/fineTuningJobs/j";

class WatchTest : public ::testing::Test {
 protected:
  WatchTest() {
    server_.jobs[kJob].set_name(kJob);
    server_.watch_messages = {JobMessage(1, kJob, v1::FineTuningJob::STATE_QUEUED),
                              JobMessage(2, kJob, v1::FineTuningJob::STATE_RUNNING), EventMessage(3, "a"),
                              EventMessage(4, "b"), JobMessage(5, kJob, v1::FineTuningJob::STATE_SUCCEEDED)};
  }

  StatusOr<v1::FineTuningJob> Watch(const WatchOptions& options = {}) {
    return server_.NewClient()->Watch(kJob, options, [&](const v1::WatchFineTuningJobResponse& message) {
      seen_.push_back(message.sequence());
      return OkStatus();
    });
  }

  FakeServer server_;
  std::vector<int64_t> seen_;
};

TEST_F(WatchTest, EndsWithTheEndedJob) {
  const auto job = Watch();
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::FineTuningJob::STATE_SUCCEEDED);
  EXPECT_THAT(seen_, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(server_.watch_sequences, ElementsAre(0));
}

TEST_F(WatchTest, BrokenStreamsAreTakenUpAfterTheLastSequence) {
  server_.watch_breaks = {2, 0, 0, 1};
  std::vector<int64_t> breaks;
  WatchOptions options;
  options.on_break = [&](const Status&, int64_t sequence) { breaks.push_back(sequence); };
  const auto job = Watch(options);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_THAT(seen_, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(server_.watch_sequences, ElementsAre(0, 2, 2, 2, 3));
  EXPECT_THAT(breaks, ElementsAre(2, 2, 2, 3));
}

TEST_F(WatchTest, MessagesTheServerRepeatsAreLeftOut) {
  server_.watch_breaks = {3};
  server_.watch_repeats = true;
  ASSERT_TRUE(Watch().ok());
  EXPECT_THAT(seen_, ElementsAre(1, 2, 3, 4, 5));
}

TEST_F(WatchTest, LiveProgressPassesWithItsOldSequence) {
  v1::WatchFineTuningJobResponse progress;
  progress.set_sequence(2);
  progress.mutable_progress()->set_step(7);
  server_.watch_messages.insert(server_.watch_messages.begin() + 2, progress);
  ASSERT_TRUE(Watch().ok());
  EXPECT_THAT(seen_, ElementsAre(1, 2, 2, 3, 4, 5));
}

TEST_F(WatchTest, JobThatEndedBeforeTheSequenceIsFetched) {
  server_.jobs[kJob].set_state(v1::FineTuningJob::STATE_FAILED);
  WatchOptions options;
  options.after_sequence = 5;
  const auto job = Watch(options);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::FineTuningJob::STATE_FAILED);
  EXPECT_TRUE(seen_.empty());
}

TEST_F(WatchTest, ServerThatNeverAnswersIsGivenUp) {
  server_.watch_breaks = {0, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(Watch().status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(server_.watch_sequences.size(), 4u);  // the first and three more
}

TEST_F(WatchTest, UnknownJobIsNotRetried) {
  server_.jobs.clear();
  EXPECT_EQ(Watch().status().reason(), "JOB_NOT_FOUND");
  EXPECT_EQ(server_.watch_sequences.size(), 1u);
}

TEST_F(WatchTest, SinkEndsTheWatch) {
  const auto job = server_.NewClient()->Watch(
      kJob, {}, [](const v1::WatchFineTuningJobResponse&) { return ResourceExhausted("FULL", "enough"); });
  EXPECT_EQ(job.status().reason(), "FULL");
}

TEST_F(WatchTest, StopEndsTheWatch) {
  std::stop_source stop;
  stop.request_stop();
  WatchOptions options;
  options.stop = stop.get_token();
  EXPECT_EQ(Watch(options).status().reason(), "STOPPED");
}

}  // namespace
}  // namespace sbora::client
