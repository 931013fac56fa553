// What the real sbora-worker leaves for operators: log lines, metrics, control groups.
#include <signal.h>

#include <nlohmann/json.hpp>
#include <set>

#include "common/grpc/http_transfer.h"
#include "tests/integration/agent/agent_fixture.h"
#include "worker/agent/cgroup.h"

namespace sbora::agent {
namespace {

using ::testing::HasSubstr;

class AgentTracesTest : public AgentTest {
 protected:
  std::unique_ptr<WorkerProcess> StartWorker() { return AgentTest::StartWorker({"--ready-file", ready().string()}); }
  fs::path ready() const { return folder_->path() / "ready"; }
  bool WaitForCommit(const std::string& uid) {
    return coordinator_.WaitFor(uid, [](const LeaseView& view) { return view.committed; });
  }
};

TEST_F(AgentTracesTest, EveryLineIsJsonAndThoseOfAnAttemptSayWhich) {
  const auto worker = StartWorker();
  const v1::File checkpoint = coordinator_.FileOf("state.txt", "3");
  coordinator_.CorruptObject(checkpoint.object());
  const std::string uid = coordinator_.AddTrainLease("steps=2", 1, &checkpoint);
  ASSERT_TRUE(WaitForCommit(uid)) << LogText();
  worker->Signal(SIGTERM);
  ASSERT_EQ(worker->WaitForExit(), 0) << LogText();
  std::istringstream lines(LogText());
  std::set<std::string> of_the_attempt;
  for (std::string text; std::getline(lines, text);) {
    const auto line = nlohmann::json::parse(text, nullptr, false);
    ASSERT_TRUE(line.is_object()) << text;
    for (const char* field : {"time", "level", "program", "message"}) EXPECT_TRUE(line.contains(field)) << text;
    EXPECT_EQ(line["program"], "sbora-worker");
    if (!line.contains("job")) continue;
    EXPECT_THAT(line["job"].get<std::string>(), HasSubstr("projects/default/fineTuningJobs/"));
    EXPECT_EQ(line["attempt"], 1) << text;
    EXPECT_TRUE(line.contains("epoch")) << text;
    of_the_attempt.insert(line["message"]);
  }
  for (const char* message : {"attempt starts", "a checkpoint is not used", "attempt committed"}) {
    EXPECT_TRUE(of_the_attempt.contains(message)) << message;
  }
}

TEST_F(AgentTracesTest, MetricsHaveTheirNames) {
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=6;step_ms=20;checkpoint_every=2");
  ASSERT_TRUE(WaitForCommit(uid)) << LogText();
  ASSERT_TRUE(WaitUntil([&] { return fs::exists(ready()); })) << LogText();  // the agent's own thread writes it
  const auto told = nlohmann::json::parse(ReadFile(ready(), 1 << 16).value());
  const std::string address = "http://" + told["httpAddress"].get<std::string>();
  const auto get = [&](const std::string& path) {
    std::string text;
    const Status got = HttpGet(address + path, 0, {}, std::stop_token(), [&](std::string_view bytes) {
      text += bytes;
      return OkStatus();
    });
    EXPECT_TRUE(got.ok()) << got;
    return text;
  };
  const std::string text = "\n" + get("/metrics");
  for (const char* series :
       {"sbora_trainer_steps_total{method=\"sbora_fa\"} 6", "sbora_trainer_tokens_total{method=\"sbora_fa\"}", "sbora_trainer_nonfinite_total 0",
        "sbora_trainer_rank_exits_total{reason=\"ok\"} 1", "sbora_trainer_rank_exits_total{reason=\"oom_gpu\"} 0",
        "sbora_checkpoint_seconds_count{stage=\"upload\"}", "sbora_checkpoint_written_bytes_total", "sbora_object_store_transferred_bytes_total{direction=\"download\"}",
        "sbora_object_store_transferred_bytes_total{direction=\"upload\"}", "sbora_worker_attempts", "sbora_worker_cache_bytes",
        "sbora_worker_cache_damaged_files_total 0", "sbora_worker_reports_dropped_total 0", "sbora_worker_synchronize_total{result=\"ok\"}",
        "sbora_build_info{revision=", "process_resident_memory_bytes"}) {
    EXPECT_THAT(text, HasSubstr(std::string("\n") + series));
  }
  EXPECT_EQ(get("/livez"), "ok\n");
}

TEST_F(AgentTracesTest, AProcessThatLeftItsGroupIsKilledThroughTheControlGroup) {
  const auto probe = Cgroup::Create("probe");
  if (!probe) GTEST_SKIP() << "needs a control group hierarchy it may write to";
  probe->Remove();
  const auto worker = StartWorker();
  const std::string uid = coordinator_.AddTrainLease("steps=3;step_ms=20;escape_at=1");
  ASSERT_TRUE(WaitForCommit(uid)) << LogText();
  EXPECT_TRUE(WaitForProcesses(uid, 0)) << "the process in a session of its own lives on";
}

}  // namespace
}  // namespace sbora::agent
