/// kill -9 of server, worker and trainer at random moments of a job: no job is lost, each commits once, and the adapter
/// has the bytes of the undisturbed run. SBORA_CRASH_RUNS turns the count up (default 3), SBORA_CRASH_SEED replays.
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <random>

#include "tests/integration/service/small_job.h"

namespace sbora::testing {
namespace {

using std::chrono::seconds;

constexpr int64_t kSteps = 200;

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
    case Victim::kTrainer:
      for (const pid_t pid : service.Trainers()) ::kill(pid, SIGKILL);
      return;
  }
}

TEST(CrashTest, JobsSurviveKillsAndEndWithTheSameBytes) {
  auto started = StartWithInputs();
  ASSERT_TRUE(started.ok()) << started.status();
  Service& service = **started;
  ASSERT_TRUE(service.Submit("undisturbed", SmallSpec(kSteps)).ok());
  const auto reference = service.WaitForState("undisturbed", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
  ASSERT_TRUE(reference.ok()) << reference.status() << service.Logs();
  const auto expected = service.AdapterHash("undisturbed");
  ASSERT_TRUE(expected.ok()) << expected.status();

  const uint64_t runs = FromEnvironment("SBORA_CRASH_RUNS", 3);
  const uint64_t seed = FromEnvironment("SBORA_CRASH_SEED", 20261123);
  std::mt19937_64 random(seed);
  for (uint64_t run = 0; run < runs; ++run) {
    const std::string id = "crash-" + std::to_string(run);
    const auto victim = static_cast<Victim>(run % 3);
    const auto at_step = static_cast<int64_t>(random() % (kSteps - 20));
    SCOPED_TRACE(fmt::format("seed {} run {}: {} killed at step {}", seed, run, Name(victim), at_step));
    ASSERT_TRUE(service.Submit(id, SmallSpec(kSteps)).ok());
    if (at_step % 4 != 0) {  // every fourth kill comes at once: while files are fetched or ranks start
      ASSERT_TRUE(service.WaitForStep(id, at_step, seconds(120)).ok()) << service.Logs();
    }
    KillAndRestart(service, victim);
    const auto done = service.WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(180));
    ASSERT_TRUE(done.ok()) << done.status() << service.Logs();
    EXPECT_EQ(*service.AdapterHash(id), *expected);
  }
  const auto adapters = service.client().ListAdapters({});
  ASSERT_TRUE(adapters.ok());
  EXPECT_EQ(static_cast<uint64_t>(adapters->adapters_size()), runs + 1);
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
