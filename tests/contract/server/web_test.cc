// What the live page is made of, over HTTP from the real server: lists, one job, its curve and events, the stream, /metrics.
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/grpc/http_transfer.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using ::testing::HasSubstr;

class WebTest : public ContractTest {
 protected:
  std::string Get(const std::string& path) {
    std::string text;
    const Status got = HttpGet("http://" + server_->http_address() + path, 0, {}, std::stop_token(), [&](std::string_view bytes) {
      text += bytes;
      return OkStatus();
    });
    EXPECT_TRUE(got.ok()) << path << ": " << got;
    return text;
  }
  nlohmann::json GetJson(const std::string& path) {
    const std::string text = Get(path);
    auto json = nlohmann::json::parse(text, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << path << ": " << text;
    return json;
  }

  /// A job that runs, with a checkpoint at step 2 and three points of a curve, the second of them with a validation loss.
  worker::v1::Lease RunJob(const std::string& id) {
    MakeModel("base");
    MakeDataset("data");
    v1::FineTuningJob job;
    const grpc::Status created = Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, GoodJob(id), &job);
    EXPECT_TRUE(created.ok()) << FromGrpc(created);
    WaitForState(id, v1::FineTuningJob::STATE_QUEUED);
    const worker::v1::Lease lease = NextLease();
    worker::v1::AttemptReport& report = attempts_[lease.id().uid()];
    report.mutable_running()->set_device("cpu");
    for (int i = 1; i <= 3; ++i) {
      worker::v1::ReportItem& item = *report.add_items();
      item.set_sequence(i);
      item.mutable_metric()->set_step(i);
      item.mutable_metric()->set_attempt(1);
      item.mutable_metric()->set_loss(3.0 / i);
      if (i == 2) item.mutable_metric()->set_validation_loss(2.5);
    }
    worker::v1::ReportItem& checkpoint = *report.add_items();
    checkpoint.set_sequence(4);
    checkpoint.mutable_checkpoint()->set_step(2);
    *checkpoint.mutable_checkpoint()->add_files() = FileOf("state.safetensors", "state");
    Sync([&](const worker::v1::SynchronizeResponse& answer) { return answer.renewed_size() > 0 && answer.renewed(0).acknowledged_item() == 4; });
    report.clear_items();
    return lease;
  }
};

TEST_F(WebTest, TheListShowsStatesProgressAndWorkers) {
  const worker::v1::Lease lease = RunJob("first");
  ReportRunning(lease);
  const nlohmann::json jobs = GetJson("/api/jobs?project=default&pageSize=50")["fineTuningJobs"];
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0]["name"], "projects/default/fineTuningJobs/first");
  EXPECT_EQ(jobs[0]["state"], "STATE_RUNNING");
  EXPECT_EQ(jobs[0]["progress"]["step"], "1");
  EXPECT_EQ(jobs[0]["progress"]["totalSteps"], "2");
  EXPECT_EQ(GetJson("/api/summary?project=default")["states"]["RUNNING"], 1);
  EXPECT_EQ(GetJson("/api/jobs?project=other")["fineTuningJobs"].size(), 0u);
  const nlohmann::json workers = GetJson("/api/workers")["workers"];
  ASSERT_EQ(workers.size(), 1u);
  EXPECT_EQ(workers[0]["name"], "workers/agent");
  EXPECT_EQ(workers[0]["slotsUsed"], 1);
  EXPECT_EQ(workers[0]["leases"][0], "projects/default/fineTuningJobs/first");
  EXPECT_EQ(GetJson("/api/server")["address"], server_->address());
}

TEST_F(WebTest, OneJobHasItsCurveItsEventsAndAStreamThatGoesOnBehindThem) {
  const worker::v1::Lease lease = RunJob("first");
  const std::string job = "/api/jobs/projects/default/fineTuningJobs/first";
  const nlohmann::json curve = GetJson(job + "/metrics")["metrics"];
  ASSERT_EQ(curve.size(), 3u);
  for (int i = 1; i <= 3; ++i) EXPECT_EQ(curve[static_cast<size_t>(i - 1)]["step"], std::to_string(i));
  EXPECT_DOUBLE_EQ(curve[2]["loss"], 1.0);
  EXPECT_DOUBLE_EQ(curve[1]["validationLoss"], 2.5);
  const nlohmann::json before = GetJson(job + "/events");
  EXPECT_THAT(before["events"].dump(), HasSubstr("CHECKPOINT_SAVED"));
  EXPECT_THAT(before["events"].dump(), HasSubstr("STARTING -> RUNNING"));

  worker::v1::TaskResult result;
  result.mutable_train()->set_steps(3);
  ASSERT_TRUE(Commit(lease, result, {{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "factors"}}).ok());
  const std::string stream = Get(job + "/watch?after=" + before["sequence"].dump());
  EXPECT_THAT(stream, HasSubstr("event: event\ndata: {"));
  EXPECT_THAT(stream, HasSubstr("RUNNING -\\u003e SUCCEEDED"));
  EXPECT_THAT(stream, HasSubstr("event: job\n"));
  EXPECT_THAT(stream, ::testing::Not(HasSubstr("CHECKPOINT_SAVED"))) << "told before";
  EXPECT_EQ(GetJson(job)["adapter"], "projects/default/adapters/first");
}

TEST_F(WebTest, AJobThatWaitsStandsAtItsCheckpoint) {
  const worker::v1::Lease lease = RunJob("first");
  v1::PauseFineTuningJobRequest pause;
  pause.set_name("projects/default/fineTuningJobs/first");
  v1::FineTuningJob job;
  ASSERT_TRUE(Call(*jobs_, &v1::FineTuningService::Stub::PauseFineTuningJob, pause, &job).ok());
  attempts_[lease.id().uid()].mutable_ended()->set_reason(v1::TERMINATION_REASON_PAUSED_BY_USER);
  Sync([](const worker::v1::SynchronizeResponse& answer) { return answer.renewed().empty(); });
  WaitForState("first", v1::FineTuningJob::STATE_PAUSED);
  const nlohmann::json paused = GetJson("/api/jobs/projects/default/fineTuningJobs/first");
  EXPECT_EQ(paused["state"], "STATE_PAUSED");
  EXPECT_EQ(paused["progress"]["step"], "2");
  EXPECT_EQ(paused["progress"]["totalSteps"], "2");
}

/// The names that operators' dashboards and alerts rest on, each with what brings it about here.
TEST_F(WebTest, MetricsHaveTheirNames) {
  const worker::v1::Lease lease = RunJob("first");
  worker::v1::TaskResult result;
  result.mutable_train()->set_steps(3);
  ASSERT_TRUE(Commit(lease, result, {{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "factors"}}).ok());
  WaitForState("first", v1::FineTuningJob::STATE_SUCCEEDED);
  const std::string text = Get("/metrics");
  for (const char* series :
       {"sbora_jobs{state=\"running\"}", "sbora_jobs_submitted_total{result=\"accepted\"} 1",
        "sbora_jobs_finished_total{outcome=\"succeeded\",reason=\"done\"}", "sbora_job_attempts_total{outcome=\"committed\",reason=\"done\"}",
        "sbora_job_queue_wait_seconds_count{priority_class=\"normal\"}", "sbora_job_run_seconds_count{method=\"sbora_fa\",quantization=\"none\"}",
        "sbora_queue_oldest_job_age_seconds{priority_class=\"normal\"}", "sbora_leases_active 0", "sbora_lease_expirations_total",
        "sbora_fenced_writes_total{operation=", "sbora_workers{state=\"ready\"} 1", "sbora_worker_gpus{state=\"ready\"} 1",
        "sbora_scheduler_cycle_seconds_count", "sbora_db_transaction_seconds_count{operation=", "sbora_db_errors_total{kind=",
        "sbora_coordinator_leader 1", "sbora_watch_streams", "sbora_watch_events_dropped_total{reason=", "sbora_auth_failures_total{reason=",
        "grpc_server_call_duration_seconds_count{grpc_method=\"sbora.v1.FineTuningService/CreateFineTuningJob\",grpc_status=\"OK\"} 1",
        "sbora_object_store_request_seconds_count{operation=", "sbora_object_store_transferred_bytes_total{direction=\"upload\"}", "sbora_build_info{revision=", "process_resident_memory_bytes"}) {
    EXPECT_THAT(text, HasSubstr(std::string("\n") + series));
  }
}

}  // namespace
}  // namespace sbora::server
