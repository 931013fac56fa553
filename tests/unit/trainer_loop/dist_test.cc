// Ranks as threads of this process: what they add up, in what order, and what is said when one is missing or gone.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <thread>

#include "common/file.h"
#include "worker/trainer/dist/gradient_reducer.h"
#include "worker/trainer/dist/peer_process.h"
#include "worker/trainer/dist/process_group.h"

namespace sbora::trainer {
namespace {

using std::chrono::milliseconds;
using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class DistTest : public ::testing::Test {
 protected:
  DistTest() : temp_(*TempDirectory::Create(std::filesystem::temp_directory_path(), "dist-test")) {}

  ProcessGroup::Options Options(int rank, int world_size) const {
    return {.rank = rank, .world_size = world_size, .rendezvous_file = temp_.path() / "rendezvous",
            .sum_timeout = std::chrono::seconds(60), .blame_limit = milliseconds(20)};
  }

  /// Each rank on a worker of its own, as far as it knows; all on this machine.
  ProcessGroup::Options OverWorkersOptions(int rank, int world_size) {
    if (listener_ < 0) Listen();
    ProcessGroup::Options options = Options(rank, world_size);
    options.rendezvous_file = "";
    options.over_workers = OverWorkers{.store_host = "localhost", .store_port = port_, .listener = rank == 0 ? listener_ : -1,
                                       .address = "127.0.0.1", .first_local_rank = rank, .local_ranks = 1};
    return options;
  }

  /// Runs `work` on each rank, in a thread of its own.
  void OnRanks(int world_size, const std::function<void(ProcessGroup&)>& work) {
    OnRanks(world_size, [&](int rank) { return Options(rank, world_size); }, work);
  }
  void OnRanks(int world_size, const std::function<ProcessGroup::Options(int)>& options_of,
               const std::function<void(ProcessGroup&)>& work) {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < world_size; ++rank) {
      threads.emplace_back([options = options_of(rank), &work] {
        auto group = ProcessGroup::Join(options);
        ASSERT_TRUE(group.ok()) << group.status();
        work(**group);
      });
    }
  }

  /// Where nobody else comes.
  static Status JoinAlone(ProcessGroup::Options options) {
    options.join_timeout = milliseconds(300);
    return ProcessGroup::Join(options).status();
  }

  void Listen() {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);  // rank 0's store closes it
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    ASSERT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    ASSERT_EQ(::listen(listener_, 16), 0);
    ASSERT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }

  TempDirectory temp_;
  int listener_ = -1;
  uint16_t port_ = 0;
};

TEST_F(DistTest, RanksOnSeveralWorkersMeetAtAnAddressAndAddUpTheSameBits) {
  std::array<at::Tensor, 3> over_workers, on_one;
  const auto sum_into = [](std::array<at::Tensor, 3>& results) {
    return [&results](ProcessGroup& group) {
      at::Tensor values = at::arange(1, 10'001, at::kFloat).mul_(0.1F * static_cast<float>(group.rank() + 1)).sin_();
      ASSERT_TRUE(group.Sum(values).ok());
      results[static_cast<size_t>(group.rank())] = values;
      EXPECT_TRUE(group.Barrier().ok());
    };
  };
  OnRanks(3, [&](int rank) { return OverWorkersOptions(rank, 3); }, sum_into(over_workers));
  OnRanks(3, sum_into(on_one));
  for (const at::Tensor& result : over_workers) EXPECT_TRUE(at::equal(result, on_one[0]));
}

TEST_F(DistTest, AMissingRankOfAnotherWorkerIsNamed) {
  const Status alone = JoinAlone(OverWorkersOptions(0, 3));
  EXPECT_EQ(alone.reason(), "RENDEZVOUS_TIMEOUT");
  EXPECT_THAT(alone.message(), ContainsRegex("ranks 1, 2 of 3 did not come to localhost:[0-9]+ within 300 ms"));
}

TEST_F(DistTest, NobodyAtTheAddressIsALostRank) {
  const ProcessGroup::Options options = OverWorkersOptions(1, 2);
  ::close(listener_);
  const Status alone = JoinAlone(options);
  EXPECT_EQ(alone.reason(), "RANK_LOST");
  EXPECT_THAT(alone.message(), HasSubstr("joining the others"));
}

TEST_F(DistTest, ASumHasTheSameBitsOnEveryRankAndEveryTime) {
  constexpr int kRanks = 3;
  std::vector<at::Tensor> results(2 * kRanks);
  OnRanks(kRanks, [&](ProcessGroup& group) {
    for (int round = 0; round < 2; ++round) {
      at::Tensor values = at::arange(1, 100'001, at::kFloat).mul_(0.1F * static_cast<float>(group.rank() + 1)).sin_();
      ASSERT_TRUE(group.Sum(values).ok());
      results[static_cast<size_t>(round * kRanks + group.rank())] = values;
    }
    EXPECT_TRUE(group.Barrier().ok());
  });
  const at::Tensor x = at::arange(1, 100'001, at::kFloat);
  const at::Tensor expected = x.mul(0.1F).sin() + x.mul(0.2F).sin() + x.mul(0.3F).sin();
  EXPECT_LT((results[0] - expected).abs().max().item<float>(), 1e-6F);
  for (const at::Tensor& result : results) EXPECT_TRUE(at::equal(result, results[0]));
}

TEST_F(DistTest, AMissingRankIsNamed) {
  const Status alone = JoinAlone(Options(1, 3));
  EXPECT_EQ(alone.reason(), "RENDEZVOUS_TIMEOUT");
  EXPECT_THAT(alone.message(), ContainsRegex("ranks 0, 2 of 3 did not come to .*rendezvous within 300 ms"));
}

TEST_F(DistTest, AMissingFolderAndAnUnknownDeviceAreRefusedAtOnce) {
  ProcessGroup::Options options = Options(0, 2);
  options.rendezvous_file = temp_.path() / "none" / "rendezvous";
  EXPECT_EQ(ProcessGroup::Join(options).status().reason(), "RENDEZVOUS_FOLDER");
#ifndef SBORA_WITH_CUDA
  options = Options(0, 2);
  options.device = at::Device(at::kCUDA, 0);
  EXPECT_EQ(ProcessGroup::Join(options).status().reason(), "RANKS_DEVICE");
#endif
}

TEST_F(DistTest, ARankThatLeavesOrKeepsStillIsLostToTheOthers) {
  OnRanks(2, [&](ProcessGroup& group) {
    at::Tensor one = at::ones({4});
    ASSERT_TRUE(group.Sum(one).ok());
    if (group.rank() == 1) return;  // closes its connections
    const Status lost = group.Sum(one);
    EXPECT_EQ(lost.reason(), "RANK_LOST");
    EXPECT_THAT(lost.message(), HasSubstr("rank 0 of 2 was adding up and another rank did not answer"));
    EXPECT_EQ(group.Sum(one).reason(), "RANK_LOST");  // and stays so
  });
}

TEST_F(DistTest, ASumHasATimeLimit) {
  auto options = Options(0, 2);
  options.sum_timeout = milliseconds(200);
  std::unique_ptr<ProcessGroup> still;
  std::jthread still_thread([&] { still = *ProcessGroup::Join(Options(1, 2)); });
  const auto group = ProcessGroup::Join(options);
  ASSERT_TRUE(group.ok()) << group.status();
  still_thread.join();
  at::Tensor one = at::ones({4});
  EXPECT_EQ((*group)->Sum(one).reason(), "RANK_LOST");
}

TEST(PeerProcessTest, TellsTheRunningFromTheEnded) {
  const auto self = ThisProcess();
  ASSERT_TRUE(self.ok()) << self.status();
  EXPECT_FALSE(HasEnded(*self));
  EXPECT_EQ(*ParsePeerProcess(ToText(*self)), *self);
  EXPECT_TRUE(HasEnded({.pid = self->pid, .start_time = self->start_time + 1}));  // the number is another's now
  for (const char* text : {"", "12", "12 x", "0 5"}) EXPECT_EQ(ParsePeerProcess(text).status().reason(), "PEER_PROCESS") << text;
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string text = ToText(*ThisProcess());
    ::_exit(::write(pipe[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  siginfo_t info = {};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);  // it stays a zombie
  std::array<char, 64> text = {};
  ASSERT_GT(::read(pipe[0], text.data(), text.size() - 1), 0);
  const auto zombie = ParsePeerProcess(text.data());
  ASSERT_TRUE(zombie.ok()) << zombie.status();
  EXPECT_EQ(zombie->pid, child);
  EXPECT_TRUE(HasEnded(*zombie));
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(HasEnded(*zombie));
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST(CutBucketsTest, CutsAtPartsByTheirSizesAlone) {
  const auto cut = [](std::vector<int64_t> parts, int64_t max_buckets, int64_t min_elements) {
    return CutBuckets(parts, {.max_buckets = max_buckets, .min_elements = min_elements});
  };
  EXPECT_THAT(cut({10, 10, 10, 10}, 2, 1), ElementsAre(Bucket{0, 20}, Bucket{20, 20}));
  EXPECT_THAT(cut({10, 10, 10, 10}, 8, 30), ElementsAre(Bucket{0, 40}));  // the rest is too small for one of its own
  EXPECT_THAT(cut({10, 1}, 1, 100), ElementsAre(Bucket{0, 11}));
  EXPECT_THAT(cut({5, 50, 5}, 4, 1), ElementsAre(Bucket{0, 60}));
  EXPECT_THAT(cut({50, 5, 5, 60}, 4, 1), ElementsAre(Bucket{0, 50}, Bucket{50, 70}));
  EXPECT_TRUE(cut({}, 4, 1).empty());
}

/// Gradients and control of all ranks add up whatever order parts become ready in, and with ranks that do no backward pass.
TEST_F(DistTest, TheReducerAddsUpWhateverTheRanksDo) {
  constexpr int64_t kParts = 6;
  constexpr int64_t kPart = 4;
  const std::vector<int64_t> sizes(kParts, kPart);
  OnRanks(4, [&](ProcessGroup& group) {
    at::Tensor gradients = at::empty({kParts * kPart});
    GradientReducer reducer(group, gradients, sizes, {.max_buckets = 3, .min_elements = 1});
    ASSERT_EQ(reducer.buckets().size(), 3U);
    for (int step = 0; step < 3; ++step) {
      gradients.zero_();
      at::Tensor control = at::full({2}, group.rank(), at::kDouble);
      reducer.Ready(0, kPart);  // of an earlier micro-batch: starts nothing
      gradients.narrow(0, 0, kPart).add_(step);
      reducer.Begin(control);
      std::vector<int64_t> order = {0, 1, 2, 3, 4, 5};
      if (group.rank() == 1) order = {5, 4, 3, 2, 1, 0};  // the first bucket comes last
      if (group.rank() == 2) order = {2, 0};               // the others take no part
      if (group.rank() == 3) order = {};                   // no micro-batch
      for (const int64_t part : order) {
        gradients.narrow(0, part * kPart, kPart).add_(part + 1);
        reducer.Ready(part * kPart, kPart);
      }
      ASSERT_TRUE(reducer.Finish().ok());
      const at::Tensor sums = gradients.view({kParts, kPart});
      for (int64_t part = 0; part < kParts; ++part) {
        const int64_t ranks = part == 0 || part == 2 ? 3 : 2;
        const int64_t expected = ranks * (part + 1) + (part == 0 ? 4 * step : 0);
        EXPECT_TRUE(at::equal(sums[part], at::full({kPart}, expected, at::kFloat))) << "part " << part << sums[part];
      }
      EXPECT_TRUE(at::equal(control, at::full({2}, 6, at::kDouble)));
    }
  });
}

TEST_F(DistTest, TheReducerTellsOfALostRank) {
  OnRanks(2, [&](ProcessGroup& group) {
    at::Tensor gradients = at::zeros({8});
    GradientReducer reducer(group, gradients, std::vector<int64_t>{8});
    if (group.rank() == 1) return;
    reducer.Begin(at::zeros({1}));
    EXPECT_EQ(reducer.Finish().reason(), "RANK_LOST");
  });
}

}  // namespace
}  // namespace sbora::trainer
