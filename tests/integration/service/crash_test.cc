/// kill -9 of server, worker and trainer at random moments of a job: no job is lost, each commits once, and the adapter
/// has the bytes of the undisturbed run. SBORA_CRASH_RUNS turns the count up (default 3), SBORA_CRASH_SEED replays.
#include <gtest/gtest.h>
#include <signal.h>

#include <array>
#include <cstdlib>
#include <random>

#include "tests/integration/service/small_job.h"

namespace sbora::testing {
namespace {

using std::chrono::seconds;

constexpr int64_t kSteps = 300;
constexpr int64_t kStepsToSpare = 160;  // between the last kill and the job's end: some 0.8 s

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

enum class Victim { kServer, kWorker, kTrainer };

const char* Name(Victim victim) {
  switch (victim) {
    case Victim::kServer: return "server";
    case Victim::kWorker: return "worker";
    case Victim::kTrainer: return "trainer";
  }
  return "";
}

/// The two shapes of job that are killed: as plain as can be, and with all that a checkpoint has to carry.
v1::FineTuningSpec Shape(uint64_t number) {
  v1::FineTuningSpec spec = SmallSpec(kSteps);
  if (number % 2 == 0) return spec;
  spec.mutable_adapter()->set_method(v1::METHOD_SBORA_FB);
  spec.mutable_data()->set_validation_samples(5);
  spec.mutable_validation()->set_validate_every_steps(15);
  spec.mutable_validation()->set_keep_best(true);
  return spec;
}

void KillAndRestart(Service& service, Victim victim, const std::string& id) {
  switch (victim) {
    case Victim::kServer:
      service.server().Kill();
      ASSERT_TRUE(service.StartServer().ok()) << service.Logs();
      return;
    case Victim::kWorker:
      service.worker().Kill();
      EXPECT_TRUE(WaitUntil([&] { return service.Trainers().empty(); }, seconds(60))) << "a rank outlived its agent";
      ASSERT_TRUE(service.StartWorker().ok()) << service.Logs();
      return;
    case Victim::kTrainer: {
      const auto seen = [&] {
        const auto job = service.Get(id);
        return !service.Trainers().empty() || (job.ok() && client::IsTerminal(job->state()));
      };
      ASSERT_TRUE(WaitUntil(seen, seconds(120))) << "no trainer to kill";
      for (const pid_t pid : service.Trainers()) ::kill(pid, SIGKILL);
      return;
    }
  }
}

/// What the store remembers of the job: each event once, in order, and one commit.
void ExpectOneCommit(Service& service, const v1::FineTuningJob& job) {
  const auto events = service.client().ListEvents(job.name(), {});
  ASSERT_TRUE(events.ok()) << events.status();
  int commits = 0;
  int64_t last = 0;
  for (const v1::FineTuningEvent& event : events->events()) {
    EXPECT_GT(event.sequence(), last);
    last = event.sequence();
    commits += event.type() == "STATE_CHANGED" && event.message().find("-> SUCCEEDED") != std::string::npos ? 1 : 0;
  }
  EXPECT_EQ(commits, 1);
}

TEST(CrashTest, JobsSurviveKillsAndEndWithTheSameBytes) {
  auto started = StartWithInputs();
  ASSERT_TRUE(started.ok()) << started.status();
  Service& service = **started;
  std::array<std::string, 2> expected;
  for (uint64_t shape = 0; shape < expected.size(); ++shape) {
    const std::string id = fmt::format("undisturbed-{}", shape);
    ASSERT_TRUE(service.Submit(id, Shape(shape)).ok());
    const auto reference = service.WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
    ASSERT_TRUE(reference.ok()) << reference.status() << service.Logs();
    const auto hash = service.AdapterHash(id);
    ASSERT_TRUE(hash.ok()) << hash.status();
    expected[shape] = *hash;
  }
  ASSERT_NE(expected[0], expected[1]);

  uint64_t jobs = expected.size();
  const uint64_t runs = FromEnvironment("SBORA_CRASH_RUNS", 3);
  const uint64_t seed = FromEnvironment("SBORA_CRASH_SEED", 20261123);
  std::mt19937_64 random(seed);
  for (uint64_t run = 0; run < runs; ++run) {
    const auto victim = static_cast<Victim>(run % 3);
    const auto at_step = static_cast<int64_t>(random() % (kSteps - kStepsToSpare));
    // Every fourth kill comes at once: while files are fetched or ranks start.
    const bool at_once = at_step % 4 == 0;
    SCOPED_TRACE(fmt::format("seed {} run {}: {} killed at step {}", seed, run, Name(victim), at_once ? 0 : at_step));
    const auto kill_one = [&](const std::string& id, bool* hit) {
      ++jobs;
      ASSERT_TRUE(service.Submit(id, Shape(run)).ok());
      if (!at_once) {
        ASSERT_TRUE(service.WaitForStep(id, at_step, seconds(120)).ok()) << service.Logs();
      }
      const auto before = service.Get(id);
      ASSERT_TRUE(before.ok()) << before.status();
      ASSERT_NO_FATAL_FAILURE(KillAndRestart(service, victim, id)) << service.Logs();
      const auto done = service.WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(180));
      ASSERT_TRUE(done.ok()) << done.status() << service.Logs();
      EXPECT_EQ(*service.AdapterHash(id), expected[run % 2]);
      ExpectOneCommit(service, *done);
      // A kill that ends a gang costs an attempt, unless the gang had handed in its result.
      const bool gang_dies = victim == Victim::kTrainer || (victim == Victim::kWorker && !at_once);
      *hit = gang_dies ? done->attempt() >= 2 : !client::IsTerminal(before->state());
    };
    const auto id = HitARunningJob(fmt::format("crash-{}", run), [&](const std::string& job) {
      bool hit = false;
      kill_one(job, &hit);
      return hit || HasFailure();
    });
    ASSERT_TRUE(id.ok()) << id.status() << service.Logs();
    if (HasFailure()) return;
  }
  const auto adapters = service.client().ListAdapters({});
  ASSERT_TRUE(adapters.ok());
  EXPECT_EQ(static_cast<uint64_t>(adapters->adapters_size()), jobs);
}

TEST(CrashTest, AWorkerToldToStopGivesItsJobBackWithoutCostingAnAttempt) {
  auto started = StartWithInputs();
  ASSERT_TRUE(started.ok()) << started.status();
  Service& service = **started;
  const auto drain = [&](const std::string& id, bool* hit) {
    ASSERT_TRUE(service.Submit(id, SmallSpec(kSteps)).ok());
    ASSERT_TRUE(service.WaitForStep(id, 5, seconds(120)).ok()) << service.Logs();
    service.worker().Signal(SIGTERM);
    const auto exit_code = service.worker().WaitForExit(seconds(90));
    ASSERT_TRUE(exit_code.ok()) << exit_code.status() << service.Logs();
    EXPECT_EQ(*exit_code, 0);
    ASSERT_TRUE(service.StartWorker().ok());
    const auto done = service.WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
    ASSERT_TRUE(done.ok()) << done.status() << service.Logs();
    EXPECT_LE(done->recovery_count(), 1);
    *hit = done->recovery_count() == 1;  // 0: it had its result before the worker was told
  };
  const auto drained = HitARunningJob("drained", [&](const std::string& id) {
    bool hit = false;
    drain(id, &hit);
    return hit || HasFailure();
  });
  EXPECT_TRUE(drained.ok()) << drained.status() << service.Logs();
}

TEST(CrashTest, TheServerEndsInOrderWhenAsked) {
  auto service = Service::Create();
  ASSERT_TRUE(service.ok());
  ASSERT_TRUE((*service)->StartServer().ok()) << (*service)->Logs();
  (*service)->server().Signal(SIGTERM);
  const auto exit_code = (*service)->server().WaitForExit(seconds(60));
  ASSERT_TRUE(exit_code.ok()) << exit_code.status();
  EXPECT_EQ(*exit_code, 0);
}

}  // namespace
}  // namespace sbora::testing
