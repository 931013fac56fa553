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

constexpr int64_t kSteps = 300;

class ServiceRanksTest : public RunningServiceTest {
 protected:
  void SetUp() override {
    auto service = Service::Create();
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
    service_->set_worker_arguments({"--cpu-slots", "2"});
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
    ASSERT_EQ(by_ranks[0].size(), 40U);
    ASSERT_EQ(by_ranks[1].size(), 40U);  // each step once: rank 1 says nothing
    for (size_t i = 0; i < by_ranks[0].size(); ++i) {
      // Float32 sums in another order, carried on by forty steps of AdamW.
      EXPECT_NEAR(by_ranks[1][i].loss(), by_ranks[0][i].loss(), 2e-5 * by_ranks[0][i].loss()) << "step " << i + 1;
      EXPECT_EQ(by_ranks[1][i].trained_tokens(), by_ranks[0][i].trained_tokens());
    }
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
    ASSERT_EQ(::kill(gang[victim], SIGKILL), 0);
    const auto gone = [&] {
      const std::vector<pid_t> running = service().Trainers();
      return std::find_first_of(gang.begin(), gang.end(), running.begin(), running.end()) == gang.end();
    };
    EXPECT_TRUE(WaitUntil(gone, seconds(10))) << "a rank outlived another";
    ASSERT_NO_FATAL_FAILURE(WaitForSuccess(id));
    const auto job = service().Get(id);
    EXPECT_EQ(job->attempt(), 2);
    EXPECT_EQ(*service().AdapterHash(id), expected);
    // What ended the attempt is how that rank ended, not what the other saw of it.
    const auto events = client().ListEvents(job->name(), {});
    ASSERT_TRUE(events.ok()) << events.status();
    EXPECT_TRUE(std::any_of(events->events().begin(), events->events().end(), [&](const v1::FineTuningEvent& event) {
      return event.message().find(fmt::format("rank {} ended by signal 9", victim)) != std::string::npos;
    })) << events->DebugString();
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
    auto service = Service::Create();
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
    service_->set_worker_arguments({"--cpu-slots", "1", "--gang-address", "127.0.0.1"});
    const Status started = StartAndAddInputs(*service_);
    ASSERT_TRUE(started.ok()) << started;
    ASSERT_TRUE(service_->StartSecondWorker().ok()) << service_->Logs();
  }

  std::vector<std::string> EventsOf(const std::string& id) {
    std::vector<std::string> texts;
    const auto events = client().ListEvents(Job(id), {});
    EXPECT_TRUE(events.ok()) << events.status();
    for (const auto& event : events->events()) texts.push_back(event.type() + ": " + event.message());
    return texts;
  }
};

TEST_F(ServiceGangTest, TwoWorkersTrainAsOneRankDoes) {
  const auto alone = Train("alone", Spec(1, 40));
  const auto spread = Train("spread", Spec(2, 40));
  ASSERT_EQ(alone.size(), 40U);
  ASSERT_EQ(spread.size(), 40U);
  for (size_t i = 0; i < alone.size(); ++i) {
    EXPECT_NEAR(spread[i].loss(), alone[i].loss(), 2e-5 * alone[i].loss()) << "step " << i + 1;
    EXPECT_EQ(spread[i].trained_tokens(), alone[i].trained_tokens());
  }
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
      std::vector<pid_t> gang = service().Trainers();
      ASSERT_EQ(gang.size(), 2U);
      const std::vector<pid_t> there = service().TrainersOfSecondWorker();
      ASSERT_EQ(there.size(), 1U);
      const pid_t victim = second ? there[0] : gang[0] == there[0] ? gang[1] : gang[0];
      ASSERT_EQ(::kill(victim, SIGKILL), 0);
      const auto gone = [&] {
        const std::vector<pid_t> running = service().Trainers();
        return std::find_first_of(gang.begin(), gang.end(), running.begin(), running.end()) == gang.end();
      };
      EXPECT_TRUE(WaitUntil(gone, seconds(10))) << "a rank outlived another";
    }));
    EXPECT_THAT(EventsOf(id), ::testing::Contains(::testing::ContainsRegex("RECOVERING: .*rank [01] ended by signal 9")));
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
