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

void KillAndRestart(Service& service, Victim victim) {
  switch (victim) {
    case Victim::kServer:
      service.server().Kill();
      ASSERT_TRUE(service.StartServer().ok()) << service.Logs();
      return;
    case Victim::kWorker:
      service.worker().Kill();
      EXPECT_TRUE(WaitUntil([&] { return service.Trainers().empty(); }, seconds(10))) << "a rank outlived its agent";
      ASSERT_TRUE(service.StartWorker().ok()) << service.Logs();
      return;
    case Victim::kTrainer: {
      ASSERT_TRUE(WaitUntil([&] { return !service.Trainers().empty(); }, seconds(60))) << "no trainer to kill";
      int killed = 0;
      for (const pid_t pid : service.Trainers()) killed += ::kill(pid, SIGKILL) == 0 ? 1 : 0;
      ASSERT_GT(killed, 0) << "the trainer ended by itself before it was hit";
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

  const uint64_t runs = FromEnvironment("SBORA_CRASH_RUNS", 3);
  const uint64_t seed = FromEnvironment("SBORA_CRASH_SEED", 20261123);
  std::mt19937_64 random(seed);
  for (uint64_t run = 0; run < runs; ++run) {
    const std::string id = "crash-" + std::to_string(run);
    const auto victim = static_cast<Victim>(run % 3);
    const auto at_step = static_cast<int64_t>(random() % (kSteps - kStepsToSpare));
    // Every fourth kill comes at once: while files are fetched or ranks start.
    const bool at_once = at_step % 4 == 0;
    SCOPED_TRACE(fmt::format("seed {} run {}: {} killed at step {}", seed, run, Name(victim), at_once ? 0 : at_step));
    ASSERT_TRUE(service.Submit(id, Shape(run)).ok());
    if (!at_once) {
      ASSERT_TRUE(service.WaitForStep(id, at_step, seconds(120)).ok()) << service.Logs();
    }
    const auto before = service.Get(id);
    ASSERT_TRUE(before.ok()) << before.status();
    ASSERT_FALSE(client::IsTerminal(before->state())) << "the job had ended before anything was killed";
    KillAndRestart(service, victim);
    if (HasFatalFailure()) FAIL() << service.Logs();
    const auto done = service.WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(180));
    ASSERT_TRUE(done.ok()) << done.status() << service.Logs();
    const bool gang_died = victim == Victim::kTrainer || (victim == Victim::kWorker && !at_once);
    if (gang_died) {
      EXPECT_GE(done->attempt(), 2) << "the kill hit no attempt";
    }
    EXPECT_EQ(*service.AdapterHash(id), expected[run % 2]);
    ExpectOneCommit(service, *done);
  }
  const auto adapters = service.client().ListAdapters({});
  ASSERT_TRUE(adapters.ok());
  EXPECT_EQ(static_cast<uint64_t>(adapters->adapters_size()), runs + expected.size());
}

TEST(CrashTest, AWorkerToldToStopGivesItsJobBackWithoutCostingAnAttempt) {
  auto started = StartWithInputs();
  ASSERT_TRUE(started.ok()) << started.status();
  Service& service = **started;
  ASSERT_TRUE(service.Submit("drained", SmallSpec(kSteps)).ok());
  ASSERT_TRUE(service.WaitForStep("drained", 5, seconds(60)).ok()) << service.Logs();
  service.worker().Signal(SIGTERM);
  const auto exit_code = service.worker().WaitForExit(seconds(25));
  ASSERT_TRUE(exit_code.ok()) << exit_code.status() << service.Logs();
  EXPECT_EQ(*exit_code, 0);
  ASSERT_TRUE(service.StartWorker().ok());
  const auto done = service.WaitForState("drained", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
  ASSERT_TRUE(done.ok()) << done.status() << service.Logs();
  EXPECT_EQ(done->recovery_count(), 1);
}

TEST(CrashTest, TheServerEndsInOrderWhenAsked) {
  auto service = Service::Create();
  ASSERT_TRUE(service.ok());
  ASSERT_TRUE((*service)->StartServer().ok()) << (*service)->Logs();
  (*service)->server().Signal(SIGTERM);
  const auto exit_code = (*service)->server().WaitForExit(seconds(10));
  ASSERT_TRUE(exit_code.ok()) << exit_code.status();
  EXPECT_EQ(*exit_code, 0);
}

}  // namespace
}  // namespace sbora::testing
