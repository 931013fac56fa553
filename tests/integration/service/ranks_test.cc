// Jobs on two ranks of one real worker, and of two: the numbers of one rank, and the same bytes after a rank or a worker was
// killed or the job paused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <vector>

#include "tests/integration/service/service_fixture.h"

namespace sbora::testing {
namespace {

using std::chrono::seconds;
using ::testing::Contains;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

constexpr int64_t kSteps = 300;

class ServiceRanksTest : public RunningServiceTest {
 protected:
  void SetUp() override { Start({"--cpu-slots", "2"}); }
  void Start(std::vector<std::string> worker_arguments) {
    auto service = Service::Create();
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
    service_->set_worker_arguments(std::move(worker_arguments));
    const Status started = StartAndAddInputs(*service_);
    ASSERT_TRUE(started.ok()) << started;
  }
  Service& service() override { return *service_; }

  static v1::FineTuningSpec Spec(int ranks, int64_t steps) {
    v1::FineTuningSpec spec = SmallSpec(steps);
    spec.mutable_resources()->set_ranks(ranks);
    spec.mutable_data()->set_validation_samples(5);
    spec.mutable_validation()->set_validate_every_steps(20);
    return spec;
  }

  /// The metrics of a job that runs to its end.
  std::vector<v1::MetricPoint> Train(const std::string& id, const v1::FineTuningSpec& spec) {
    std::vector<v1::MetricPoint> metrics;
    const auto job = service().Submit(id, spec);
    EXPECT_TRUE(job.ok()) << job.status();
    if (!job.ok()) return metrics;
    const auto ended = client().Watch(job->name(), {}, [&](const v1::WatchFineTuningJobResponse& message) {
      if (message.has_metric()) metrics.push_back(message.metric());
      return OkStatus();
    });
    EXPECT_TRUE(ended.ok() && ended->state() == v1::FineTuningJob::STATE_SUCCEEDED)
        << ended.status() << ended->failure().message() << service().Logs();
    return metrics;
  }

  void WaitForSuccess(const std::string& id) {
    const auto done = service().WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(180));
    ASSERT_TRUE(done.ok()) << done.status() << service().Logs();
  }

  std::vector<std::string> EventsOf(const std::string& id) {
    std::vector<std::string> texts;
    const auto events = client().ListEvents(Job(id), {});
    EXPECT_TRUE(events.ok()) << events.status();
    if (!events.ok()) return texts;
    for (const auto& event : events->events()) texts.push_back(event.message());
    return texts;
  }

  /// Kills one rank; the rest of its gang must not outlive it for long.
  void KillRank(pid_t victim, const std::vector<pid_t>& gang) {
    ASSERT_EQ(::kill(victim, SIGKILL), 0);
    const auto gone = [&] {
      const std::vector<pid_t> running = service().Trainers();
      return std::find_first_of(gang.begin(), gang.end(), running.begin(), running.end()) == gang.end();
    };
    EXPECT_TRUE(WaitUntil(gone, seconds(10))) << "a rank outlived another";
  }

  /// Forty steps each, told once: the other ranks say nothing. Float32 sums in another order, carried on by AdamW.
  static void ExpectSameSteps(const std::vector<v1::MetricPoint>& one_rank, const std::vector<v1::MetricPoint>& ranks) {
    ASSERT_EQ(one_rank.size(), 40U);
    ASSERT_EQ(ranks.size(), 40U);
    for (size_t i = 0; i < one_rank.size(); ++i) {
      EXPECT_NEAR(ranks[i].loss(), one_rank[i].loss(), 2e-5 * one_rank[i].loss()) << "step " << i + 1;
      EXPECT_EQ(ranks[i].trained_tokens(), one_rank[i].trained_tokens());
    }
  }

  std::unique_ptr<Service> service_;
};

TEST_F(ServiceRanksTest, TwoRanksTrainAsOneDoes) {
  for (const bool nf4 : {false, true}) {
    SCOPED_TRACE(nf4 ? "nf4" : "plain");
    std::vector<std::vector<v1::MetricPoint>> by_ranks;
    for (const int ranks : {1, 2}) {
      auto spec = Spec(ranks, 40);
      if (nf4) spec.set_quantization(v1::QUANTIZATION_NF4);
      by_ranks.push_back(Train(fmt::format("{}-{}", nf4 ? "nf4" : "plain", ranks), spec));
    }
    ASSERT_NO_FATAL_FAILURE(ExpectSameSteps(by_ranks[0], by_ranks[1]));
  }
}

TEST_F(ServiceRanksTest, AKilledRankEndsTheGangAndTheJobEndsWithTheSameBytes) {
  ASSERT_TRUE(service().Submit("undisturbed", Spec(2, kSteps)).ok());
  ASSERT_NO_FATAL_FAILURE(WaitForSuccess("undisturbed"));
  const std::string expected = *service().AdapterHash("undisturbed");
  for (const size_t victim : {0, 1}) {
    const std::string id = fmt::format("killed-{}", victim);
    ASSERT_TRUE(service().Submit(id, Spec(2, kSteps)).ok());
    ASSERT_TRUE(service().WaitForStep(id, 30, seconds(60)).ok()) << service().Logs();
    std::vector<pid_t> gang = service().Trainers();
    ASSERT_EQ(gang.size(), 2U);
    std::sort(gang.begin(), gang.end());  // ranks start in order
    ASSERT_NO_FATAL_FAILURE(KillRank(gang[victim], gang));
    ASSERT_NO_FATAL_FAILURE(WaitForSuccess(id));
    EXPECT_EQ(service().Get(id)->attempt(), 2);
    EXPECT_EQ(*service().AdapterHash(id), expected);
    // What ended the attempt is how that rank ended, not what the other saw of it.
    EXPECT_THAT(EventsOf(id), Contains(HasSubstr(fmt::format("rank {} ended by signal 9", victim))));
  }
}

TEST_F(ServiceRanksTest, APausedJobGoesOnFromItsCheckpointAndEndsWithTheSameBytes) {
  ASSERT_TRUE(service().Submit("undisturbed", Spec(2, kSteps)).ok());
  ASSERT_NO_FATAL_FAILURE(WaitForSuccess("undisturbed"));
  ASSERT_TRUE(service().Submit("paused", Spec(2, kSteps)).ok());
  ASSERT_TRUE(service().WaitForStep("paused", 10, seconds(60)).ok()) << service().Logs();
  ASSERT_TRUE(client().PauseJob(Job("paused")).ok());
  const auto paused = service().WaitForState("paused", v1::FineTuningJob::STATE_PAUSED, seconds(60));
  ASSERT_TRUE(paused.ok()) << paused.status() << service().Logs();
  EXPECT_TRUE(service().Trainers().empty());
  ASSERT_TRUE(client().ResumeJob(Job("paused")).ok());
  ASSERT_NO_FATAL_FAILURE(WaitForSuccess("paused"));
  EXPECT_EQ(*service().AdapterHash("paused"), *service().AdapterHash("undisturbed"));
}

/// Two workers of one slot each.
class ServiceGangTest : public ServiceRanksTest {
 protected:
  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(Start({"--cpu-slots", "1", "--gang-address", "127.0.0.1"}));
    ASSERT_TRUE(service_->StartSecondWorker().ok()) << service_->Logs();
  }
};

TEST_F(ServiceGangTest, TwoWorkersTrainAsOneRankDoes) {
  const auto alone = Train("alone", Spec(1, 40));
  ASSERT_NO_FATAL_FAILURE(ExpectSameSteps(alone, Train("spread", Spec(2, 40))));
  // Both workers are free again for what comes next.
  ASSERT_TRUE(service().Submit("next", Spec(2, 10)).ok());
  ASSERT_NO_FATAL_FAILURE(WaitForSuccess("next"));
}

TEST_F(ServiceGangTest, WhateverIsKilledTheJobEndsWithTheSameBytes) {
  ASSERT_TRUE(service().Submit("undisturbed", Spec(2, kSteps)).ok());
  ASSERT_NO_FATAL_FAILURE(WaitForSuccess("undisturbed"));
  const std::string expected = *service().AdapterHash("undisturbed");
  const auto hit = [&](const std::string& id, const std::function<void()>& strike) {
    ASSERT_TRUE(service().Submit(id, Spec(2, kSteps)).ok());
    ASSERT_TRUE(service().WaitForStep(id, 30, seconds(60)).ok()) << service().Logs();
    strike();
    ASSERT_NO_FATAL_FAILURE(WaitForSuccess(id));
    EXPECT_EQ(service().Get(id)->attempt(), 2);
    EXPECT_EQ(*service().AdapterHash(id), expected);
  };
  // A rank, on either worker.
  for (const bool second : {false, true}) {
    const std::string id = fmt::format("rank-of-{}", second ? "second" : "first");
    ASSERT_NO_FATAL_FAILURE(hit(id, [&] {
      const std::vector<pid_t> gang = service().Trainers();
      ASSERT_EQ(gang.size(), 2U);
      const std::vector<pid_t> there = service().TrainersOfSecondWorker();
      ASSERT_EQ(there.size(), 1U);
      KillRank(second ? there[0] : gang[0] == there[0] ? gang[1] : gang[0], gang);
    }));
    EXPECT_THAT(EventsOf(id), Contains(ContainsRegex("RECOVERING: .*rank [01] ended by signal 9")));
  }
  // A whole worker, which comes back.
  ASSERT_NO_FATAL_FAILURE(hit("worker", [&] {
    service().second_worker().Kill();
    ASSERT_TRUE(service().StartSecondWorker().ok()) << service().Logs();
  }));
  // The server, under way: nobody minds.
  ASSERT_TRUE(service().Submit("server", Spec(2, kSteps)).ok());
  ASSERT_TRUE(service().WaitForStep("server", 30, seconds(60)).ok()) << service().Logs();
  service().server().Kill();
  ASSERT_TRUE(service().StartServer().ok()) << service().Logs();
  ASSERT_NO_FATAL_FAILURE(WaitForSuccess("server"));
  EXPECT_EQ(service().Get("server")->attempt(), 1);
  EXPECT_EQ(*service().AdapterHash("server"), expected);
}

TEST_F(ServiceGangTest, APauseKeepsTheCheckpointAndADrainMovesNothingElse) {
  ASSERT_TRUE(service().Submit("undisturbed", Spec(2, kSteps)).ok());
  ASSERT_NO_FATAL_FAILURE(WaitForSuccess("undisturbed"));
  ASSERT_TRUE(service().Submit("paused", Spec(2, kSteps)).ok());
  ASSERT_TRUE(service().WaitForStep("paused", 10, seconds(60)).ok()) << service().Logs();
  ASSERT_TRUE(client().PauseJob(Job("paused")).ok());
  const auto paused = service().WaitForState("paused", v1::FineTuningJob::STATE_PAUSED, seconds(60));
  ASSERT_TRUE(paused.ok()) << paused.status() << service().Logs();
  EXPECT_TRUE(WaitUntil([&] { return service().Trainers().empty(); }, seconds(10)));
  ASSERT_TRUE(client().ResumeJob(Job("paused")).ok());
  ASSERT_TRUE(service().WaitForStep("paused", 60, seconds(60)).ok()) << service().Logs();
  service().second_worker().Signal(SIGTERM);  // drains: its rank's stop is the stop of all
  EXPECT_TRUE(service().second_worker().WaitForExit(seconds(60)).ok()) << service().Logs();
  EXPECT_TRUE(WaitUntil([&] { return service().Get("paused")->state() == v1::FineTuningJob::STATE_QUEUED; }, seconds(60)));
  ASSERT_TRUE(service().StartSecondWorker().ok()) << service().Logs();
  ASSERT_NO_FATAL_FAILURE(WaitForSuccess("paused"));
  EXPECT_EQ(*service().AdapterHash("paused"), *service().AdapterHash("undisturbed"));
}

TEST_F(ServiceRanksTest, RanksThatCannotBeAreRefusedOrWait) {
  v1::CreateFineTuningJobRequest request;
  request.set_validate_only(true);
  *request.mutable_fine_tuning_job()->mutable_spec() = Spec(2, 10);
  EXPECT_TRUE(client().Submit(request).ok());
  request.mutable_fine_tuning_job()->mutable_spec()->mutable_resources()->set_ranks(3);  // batches of 4, micro-batches of 2
  EXPECT_EQ(client().Submit(request).status().reason(), "INVALID_SPEC");
}

}  // namespace
}  // namespace sbora::testing
