/// kill -9 inside the commit of an attempt, at each of its named moments (common/failpoint.h): between the upload of the
/// files, the manifest, and the transaction that makes them an adapter. No job is lost and none commits twice, a server's
/// death costs no attempt, and the adapter has the bytes of the undisturbed run.
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>

#include "tests/integration/service/small_job.h"

namespace sbora::testing {
namespace {

using std::chrono::seconds;

constexpr int64_t kSteps = 30;
constexpr int kKilled = 128 + SIGKILL;

/// Programs started while it lives have the failpoint.
class ArmedFailPoint {
 public:
  explicit ArmedFailPoint(const std::string& name) { ::setenv("SBORA_FAILPOINT", (name + ":kill").c_str(), 1); }
  ~ArmedFailPoint() { ::unsetenv("SBORA_FAILPOINT"); }
  ArmedFailPoint(const ArmedFailPoint&) = delete;
  ArmedFailPoint& operator=(const ArmedFailPoint&) = delete;
};

class CommitCrashTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto started = StartWithInputs();
    ASSERT_TRUE(started.ok()) << started.status();
    service_ = std::move(started).value();
    ASSERT_TRUE(service_->Submit("undisturbed", SmallSpec(kSteps)).ok());
    const auto reference = service_->WaitForState("undisturbed", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
    ASSERT_TRUE(reference.ok()) << reference.status() << service_->Logs();
    const auto hash = service_->AdapterHash("undisturbed");
    ASSERT_TRUE(hash.ok()) << hash.status();
    expected_ = *hash;
  }

  Status StartArmed(const std::string& point, Program& program, Status (Service::*start)()) {
    program.Kill();
    const ArmedFailPoint armed(point);
    return (service_.get()->*start)();
  }

  /// Until `id` has its adapter: the right bytes, and a manifest that its row names.
  v1::FineTuningJob WaitForTheAdapter(const std::string& id) {
    const auto done = service_->WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
    EXPECT_TRUE(done.ok()) << done.status() << service_->Logs();
    if (!done.ok()) return {};
    const auto hash = service_->AdapterHash(id);
    EXPECT_TRUE(hash.ok() && *hash == expected_) << id;
    const auto adapter = service_->client().GetAdapter(done->adapter());
    EXPECT_TRUE(adapter.ok()) << adapter.status();
    const auto folder = service_->directory() / ("pulled-" + id);
    const Status pulled = service_->client().Pull(adapter->files(), adapter->manifest_sha256(), folder, {});
    EXPECT_TRUE(pulled.ok()) << pulled;
    return *done;
  }

  std::unique_ptr<Service> service_;
  std::string expected_;
};

TEST_F(CommitCrashTest, TheServerMayDieAtEachMomentOfACommit) {
  int jobs = 1;
  for (const std::string point : {"commit.before_manifest", "commit.after_manifest", "store.before_commit", "store.after_commit"}) {
    SCOPED_TRACE(point);
    const std::string id = "server-" + std::to_string(jobs++);
    ASSERT_TRUE(StartArmed(point, service_->server(), &Service::StartServer).ok()) << service_->Logs();
    ASSERT_TRUE(service_->Submit(id, SmallSpec(kSteps)).ok());
    const auto exit_code = service_->server().WaitForExit(seconds(120));
    ASSERT_TRUE(exit_code.ok()) << "the failpoint was never reached" << service_->Logs();
    ASSERT_EQ(*exit_code, kKilled);
    ASSERT_TRUE(service_->StartServer().ok()) << service_->Logs();
    EXPECT_EQ(WaitForTheAdapter(id).attempt(), 1) << "the agent had its result still, and had only to say it again";
  }
  const auto adapters = service_->client().ListAdapters({});
  ASSERT_TRUE(adapters.ok()) << adapters.status();
  EXPECT_EQ(adapters->adapters_size(), jobs);
}

TEST_F(CommitCrashTest, TheWorkerMayDieOnEitherSideOfItsCommit) {
  for (const std::string point : {"agent.before_commit", "agent.after_commit"}) {
    SCOPED_TRACE(point);
    const std::string id = point.substr(point.find('.') + 1, point.find('_') - point.find('.') - 1);
    ASSERT_TRUE(StartArmed(point, service_->worker(), &Service::StartWorker).ok()) << service_->Logs();
    ASSERT_TRUE(service_->Submit(id, SmallSpec(kSteps)).ok());
    const auto exit_code = service_->worker().WaitForExit(seconds(120));
    ASSERT_TRUE(exit_code.ok()) << "the failpoint was never reached" << service_->Logs();
    ASSERT_EQ(*exit_code, kKilled);
    ASSERT_TRUE(service_->StartWorker().ok()) << service_->Logs();
    EXPECT_EQ(WaitForTheAdapter(id).attempt(), point == "agent.before_commit" ? 2 : 1);
  }
}

}  // namespace
}  // namespace sbora::testing
