#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "worker/trainer/link/agent_link.h"
#include "worker/trainer/link/failure.h"
#include "worker/trainer/link/frame.h"
#include "worker/trainer/link/outgoing_queue.h"

namespace sbora::trainer {
namespace {

struct Pair {
  Pair() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    ours = UniqueFd(fds[0]);
    theirs = UniqueFd(fds[1]);
  }
  UniqueFd ours, theirs;
};

TEST(FrameTest, RoundTripsAllLengthsOfVarint) {
  for (const size_t size : {0u, 1u, 127u, 128u, 16'383u, 16'384u, 70'000u}) {
    Pair pair;
    const std::string message(size, 'x');
    std::jthread writer([&] { EXPECT_TRUE(WriteAll(pair.theirs.get(), EncodeFrame(message), "test").ok()); });
    const auto read = ReadFrame(pair.ours.get());
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->value(), message);
  }
}

TEST(FrameTest, EndsAndDamageAreToldApart) {
  struct Case {
    const char* title;
    std::string bytes;
    const char* reason;  // empty: a clean end
  };
  const Case cases[] = {
      {"end between messages", "", ""},
      {"end inside the length", std::string("\x80", 1), "FRAME_TRUNCATED"},
      {"end right after the length", std::string("\x05", 1), "FRAME_TRUNCATED"},
      {"end inside the message", std::string("\x05xx", 3), "FRAME_TRUNCATED"},
      {"length of more than ten bytes", std::string(11, '\xff'), "FRAME_MALFORMED"},
      {"length beyond the limit", std::string("\xff\xff\xff\xff\x0f", 5), "FRAME_TOO_LARGE"},
  };
  for (const auto& [title, bytes, reason] : cases) {
    SCOPED_TRACE(title);
    Pair pair;
    ASSERT_TRUE(WriteAll(pair.theirs.get(), bytes, "test").ok());
    pair.theirs.Reset();
    const auto read = ReadFrame(pair.ours.get());
    if (*reason == '\0') {
      ASSERT_TRUE(read.ok());
      EXPECT_FALSE(read->has_value());
    } else {
      EXPECT_EQ(read.status().reason(), reason);
    }
  }
}

TEST(OutgoingQueueTest, KeepsOrderAndNeverDropsFrames) {
  Pair pair;
  std::vector<std::string> got;
  std::jthread reader([&] {
    for (;;) {
      const auto frame = ReadFrame(pair.theirs.get());
      if (!frame.ok() || !*frame) return;
      got.push_back(**frame);
    }
  });
  {
    OutgoingQueue queue(pair.ours.get(), [](const Status& error) { ADD_FAILURE() << error; });
    for (int i = 0; i < 5000; ++i) queue.Send(EncodeFrame(std::to_string(i)));
    queue.Flush();
  }
  pair.ours.Reset();
  reader.join();
  ASSERT_EQ(got.size(), 5000u);
  for (int i = 0; i < 5000; ++i) EXPECT_EQ(got[static_cast<size_t>(i)], std::to_string(i));
}

TEST(OutgoingQueueTest, OnlyTheNewestProgressWaits) {
  Pair pair;
  const std::string large(1 << 20, 'x');  // fills the socket: the writer waits inside it
  std::vector<std::string> got;
  {
    OutgoingQueue queue(pair.ours.get(), [](const Status& error) { ADD_FAILURE() << error; });
    queue.Send(EncodeFrame(large));
    for (int i = 0; i < 100'000; ++i) queue.SendProgress(EncodeFrame(std::to_string(i)));
    std::jthread reader([&] {
      for (;;) {
        const auto frame = ReadFrame(pair.theirs.get());
        if (!frame.ok() || !*frame) return;
        got.push_back(**frame);
      }
    });
    queue.Flush();
    ::shutdown(pair.ours.get(), SHUT_WR);
    reader.join();
  }
  ASSERT_GE(got.size(), 2u);
  EXPECT_LE(got.size(), 3u);  // one may have left before the large frame was queued behind it
  EXPECT_EQ(got.back(), "99999");
}

TEST(AgentLinkTest, SignsOfLifeRepeatTheLastProgressNowAndThen) {
  Pair pair;
  v1::AgentMessage task;
  task.mutable_task()->set_job("job");
  ASSERT_TRUE(WriteAll(pair.theirs.get(), EncodeFrame(task.SerializeAsString()), "test").ok());
  const auto next = [&] {
    v1::TrainerMessage message;
    const auto frame = ReadFrame(pair.theirs.get());
    EXPECT_TRUE(frame.ok() && *frame && message.ParseFromString(**frame));
    return message.progress();
  };
  const auto link = AgentLink::Start(pair.ours.get());
  ASSERT_TRUE(link.ok()) << link.status();
  const MonotonicTime start = SystemClock().Now();
  (*link)->OnProgress({.step = 3, .phase = "training"});
  EXPECT_EQ(next().ticks(), 1);
  constexpr int64_t kMany = 1000;
  const MonotonicTime until = SystemClock().Now() + 4 * AgentLink::kAliveEvery;
  for (int64_t calls = 0; calls < kMany || SystemClock().Now() < until; ++calls) (*link)->OnAlive();
  (*link)->OnAlive();  // at least one of them was due
  const int64_t due = (SystemClock().Now() - start) / AgentLink::kAliveEvery;
  (*link)->OnProgress({.step = 4, .phase = {}});
  int64_t ticks = 1;
  v1::Progress progress = next();
  for (; progress.progress().step() != 4; progress = next()) {
    EXPECT_GT(progress.ticks(), ticks);
    EXPECT_EQ(progress.progress().step(), 3);
    EXPECT_EQ(progress.progress().phase(), "training");
    ticks = progress.ticks();
  }
  // The last one counts those that it overtook in a queue whose writer stood still.
  const int64_t signs = progress.ticks() - 2;
  EXPECT_GE(signs, 1);
  EXPECT_LE(signs, due);  // however often it was called
}

TEST(AgentLinkTest, WhatIsNoTaskIsRefused) {
  Pair silent;
  ::shutdown(silent.theirs.get(), SHUT_WR);
  const Status closed = AgentLink::Start(silent.ours.get()).status();
  EXPECT_EQ(closed.code(), StatusCode::kDataLoss);
  EXPECT_EQ(closed.reason(), "PROTOCOL");
  EXPECT_EQ(closed.message(), "the agent closed the socket before it sent a task");
  Pair other;
  v1::AgentMessage message;
  message.mutable_stop();
  ASSERT_TRUE(WriteAll(other.theirs.get(), EncodeFrame(message.SerializeAsString()), "test").ok());
  const Status refused = AgentLink::Start(other.ours.get()).status();
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused.reason(), "PROTOCOL");
  EXPECT_EQ(refused.message(), "the first message from the agent is no TaskAssignment");
}

TEST(OutgoingQueueTest, AReaderThatIsGoneIsReported) {
  std::signal(SIGPIPE, SIG_IGN);  // as the program does
  Pair pair;
  pair.theirs.Reset();
  std::string seen;
  {
    OutgoingQueue queue(pair.ours.get(), [&](const Status& error) { seen = error.message(); });
    queue.Send(EncodeFrame("x"));
    queue.Flush();
  }
  EXPECT_FALSE(seen.empty());
}

TEST(FailureTest, ReasonsAndExitCodes) {
  EXPECT_EQ(ReasonOf(FailedPrecondition("NON_FINITE", "x")), sbora::v1::TERMINATION_REASON_NON_FINITE);
  EXPECT_EQ(ReasonOf(ResourceExhausted("OOM_HOST", "x")), sbora::v1::TERMINATION_REASON_OOM_HOST);
  EXPECT_EQ(ReasonOf(ResourceExhausted("OOM_GPU", "x")), sbora::v1::TERMINATION_REASON_OOM_GPU);
  EXPECT_EQ(ReasonOf(ResourceExhausted("NO_SPACE", "x")), sbora::v1::TERMINATION_REASON_NO_SPACE);
  EXPECT_EQ(ReasonOf(InvalidArgument("DATASET_INVALID", "x")), sbora::v1::TERMINATION_REASON_INVALID_INPUT);
  EXPECT_EQ(ReasonOf(DataLoss("TOKEN_CACHE_CORRUPT", "x")), sbora::v1::TERMINATION_REASON_TRAINER_ERROR);
  EXPECT_EQ(ExitCodeOf(Internal("TORCH_ERROR", "x")), ExitCode::kInternal);
  EXPECT_EQ(ExitCodeOf(Cancelled("TASK_STOPPED", "x")), ExitCode::kPreempted);
  EXPECT_EQ(ExitCodeOf(InvalidArgument("X", "x")), ExitCode::kError);
  const auto error = ToError(InvalidArgument("DATASET_INVALID", "line 3"));
  EXPECT_EQ(error.failure().reason(), "DATASET_INVALID");
  EXPECT_EQ(error.failure().message(), "line 3");
  EXPECT_EQ(error.failure().code(), 3);
}

}  // namespace
}  // namespace sbora::trainer
