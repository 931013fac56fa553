#include "server/http/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace sbora::server {
namespace {

using ::testing::HasSubstr;

TEST(MetricsTest, GaugesComeFromTheScheduler) {
  ServerMetrics metrics("1.2.3", "abc");
  SchedulerSnapshot snapshot;
  snapshot.works_by_state = {{core::JobState::kRunning, 2}};
  snapshot.workers_ready = 3;
  snapshot.leases = 2;
  const std::string text = metrics.Serialize(snapshot, 8, true);
  EXPECT_THAT(text, HasSubstr("sbora_jobs{state=\"running\"} 2"));
  EXPECT_THAT(text, HasSubstr("sbora_jobs{state=\"queued\"} 0"));
  EXPECT_THAT(text, HasSubstr("sbora_workers{state=\"ready\"} 3"));
  EXPECT_THAT(text, HasSubstr("sbora_worker_gpus{state=\"ready\"} 8"));
  EXPECT_THAT(text, HasSubstr("sbora_coordinator_leader 1"));
  EXPECT_THAT(text, HasSubstr("sbora_build_info{revision=\"abc\",version=\"1.2.3\"} 1"));
  snapshot.works_by_state.clear();
  EXPECT_THAT(metrics.Serialize(snapshot, 0, false), HasSubstr("sbora_jobs{state=\"running\"} 0"));
}

TEST(MetricsTest, TotalsOfTheSchedulerAreCountedOnce) {
  ServerMetrics metrics("1", "");
  SchedulerSnapshot snapshot;
  snapshot.committed_total = 4;
  snapshot.expired_total = 1;
  snapshot.attempts_ended = {{core::TerminationReason::kDone, 4}, {core::TerminationReason::kWorkerLost, 2}};
  metrics.Serialize(snapshot, 0, true);
  const std::string text = metrics.Serialize(snapshot, 0, true);
  EXPECT_THAT(text, HasSubstr("sbora_job_attempts_total{outcome=\"committed\",reason=\"done\"} 4"));
  EXPECT_THAT(text, HasSubstr("sbora_job_attempts_total{outcome=\"ended\",reason=\"worker_lost\"} 2"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("outcome=\"ended\",reason=\"done\"")));
  EXPECT_THAT(text, HasSubstr("sbora_lease_expirations_total 1")) << "a restart of a worker is no expiry";
}

TEST(MetricsTest, TheObjectStoresCallsAndBytesAreCounted) {
  ServerMetrics metrics("1", "");
  metrics.ObserveObjectStore(StoreOperation::kPutFile, true, 700, std::chrono::milliseconds(3));
  metrics.ObserveObjectStore(StoreOperation::kGetRange, true, 30, std::chrono::milliseconds(3));
  metrics.ObserveObjectStore(StoreOperation::kGetRange, false, 0, std::chrono::milliseconds(3));
  const std::string text = metrics.Serialize({}, 0, true);
  EXPECT_THAT(text, HasSubstr("sbora_object_store_request_seconds_count{operation=\"put_file\",result=\"ok\"} 1"));
  EXPECT_THAT(text, HasSubstr("sbora_object_store_request_seconds_count{operation=\"get_range\",result=\"error\"} 1"));
  EXPECT_THAT(text, HasSubstr("sbora_object_store_transferred_bytes_total{direction=\"upload\"} 700"));
  EXPECT_THAT(text, HasSubstr("sbora_object_store_transferred_bytes_total{direction=\"download\"} 30"));
}

TEST(MetricsTest, SeriesStayFewWhateverIsCalled) {
  ServerMetrics metrics("1", "");
  for (int method = 0; method < 50; ++method) {
    for (const char* status : {"OK", "UNAUTHENTICATED", "NOT_FOUND"}) {
      metrics.ObserveCall("service/Method" + std::to_string(method), status, std::chrono::milliseconds(3));
    }
  }
  int series = 0;
  std::istringstream lines(metrics.Serialize({}, 0, true));
  for (std::string line; std::getline(lines, line);) series += line.empty() || line.front() == '#' ? 0 : 1;
  EXPECT_GT(series, 1000);
  EXPECT_LE(series, 2000);
}

TEST(MetricsTest, CallsAreHistogramsByMethodAndStatus) {
  ServerMetrics metrics("1", "");
  metrics.ObserveCall("sbora.v1.ModelService/GetModel", "NOT_FOUND", std::chrono::milliseconds(3));
  EXPECT_THAT(metrics.Serialize({}, 0, true),
              HasSubstr("grpc_server_call_duration_seconds_count{grpc_method=\"sbora.v1.ModelService/GetModel\",grpc_status=\"NOT_FOUND\"} 1"));
}

}  // namespace
}  // namespace sbora::server
