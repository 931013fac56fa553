#include "server/http/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <cctype>

#include "common/metrics/process_metrics.h"
#include "common/mutex.h"

namespace sbora::server {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

const Histogram::BucketBoundaries kFast = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};
// Methods times statuses: each boundary costs a hundred series.
const Histogram::BucketBoundaries kCalls = {0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60};
const Histogram::BucketBoundaries kLong = {1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400};

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

std::string Lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

/// A running total that the scheduler keeps itself becomes a counter here by its differences.
void CatchUp(Counter& counter, int64_t total) {
  const double behind = static_cast<double>(total) - counter.Value();
  if (behind > 0) counter.Increment(behind);
}

}  // namespace

struct ServerMetrics::Families {
  Family<Gauge>& jobs;
  Family<Counter>& submitted;
  Family<Counter>& finished;
  Family<Counter>& attempts;
  Family<Histogram>& queue_wait;
  Family<Histogram>& run;
  Family<Gauge>& oldest;
  Family<Gauge>& leases;
  Family<Counter>& lease_expirations;
  Family<Counter>& fenced;
  Family<Gauge>& workers;
  Family<Gauge>& gpus;
  Family<Histogram>& cycle;
  Family<Histogram>& transaction;
  Family<Counter>& db_errors;
  Family<Gauge>& leader;
  Family<Gauge>& streams;
  Family<Counter>& dropped;
  Family<Counter>& auth_failures;
  Family<Histogram>& calls;
  Family<Histogram>& object_store;
  Family<Counter>& transferred;
  Mutex catch_up;  // two scrapes at once must not count one difference twice

  explicit Families(prometheus::Registry& r)
      : jobs(prometheus::BuildGauge().Name("sbora_jobs").Help("Work that has not ended, by state").Register(r)),
        submitted(prometheus::BuildCounter().Name("sbora_jobs_submitted_total").Help("Fine-tuning jobs asked for").Register(r)),
        finished(prometheus::BuildCounter().Name("sbora_jobs_finished_total").Help("Work that ended").Register(r)),
        attempts(prometheus::BuildCounter().Name("sbora_job_attempts_total").Help("Attempts that ended").Register(r)),
        queue_wait(prometheus::BuildHistogram().Name("sbora_job_queue_wait_seconds").Help("From creation to running").Register(r)),
        run(prometheus::BuildHistogram().Name("sbora_job_run_seconds").Help("From the first running state to the end").Register(r)),
        oldest(prometheus::BuildGauge().Name("sbora_queue_oldest_job_age_seconds").Help("Longest present wait").Register(r)),
        leases(prometheus::BuildGauge().Name("sbora_leases_active").Help("Leases held by workers").Register(r)),
        lease_expirations(prometheus::BuildCounter().Name("sbora_lease_expirations_total").Help("Leases ended without renewal").Register(r)),
        fenced(prometheus::BuildCounter().Name("sbora_fenced_writes_total").Help("Writes of old epochs refused").Register(r)),
        workers(prometheus::BuildGauge().Name("sbora_workers").Help("Workers by state").Register(r)),
        gpus(prometheus::BuildGauge().Name("sbora_worker_gpus").Help("GPUs of workers that are ready").Register(r)),
        cycle(prometheus::BuildHistogram().Name("sbora_scheduler_cycle_seconds").Help("One pass over what is due").Register(r)),
        transaction(prometheus::BuildHistogram().Name("sbora_db_transaction_seconds").Help("Commits of the store").Register(r)),
        db_errors(prometheus::BuildCounter().Name("sbora_db_errors_total").Help("Failed commits of the store").Register(r)),
        leader(prometheus::BuildGauge().Name("sbora_coordinator_leader").Help("1 while this server takes work").Register(r)),
        streams(prometheus::BuildGauge().Name("sbora_watch_streams").Help("Open watch streams").Register(r)),
        dropped(prometheus::BuildCounter().Name("sbora_watch_events_dropped_total").Help("Watch streams cut").Register(r)),
        auth_failures(prometheus::BuildCounter().Name("sbora_auth_failures_total").Help("Refused calls").Register(r)),
        calls(prometheus::BuildHistogram().Name("grpc_server_call_duration_seconds").Help("RPCs by method and status").Register(r)),
        object_store(prometheus::BuildHistogram().Name("sbora_object_store_request_seconds").Help("Object store requests").Register(r)),
        transferred(prometheus::BuildCounter().Name("sbora_object_store_transferred_bytes_total").Help("Bytes moved to and from the object store").Register(r)) {}
};

ServerMetrics::ServerMetrics(const std::string& version, const std::string& revision) : families_(std::make_unique<Families>(registry_)) {
  prometheus::BuildGauge().Name("sbora_build_info").Help("1; version and revision are labels").Register(registry_).Add({{"version", version}, {"revision", revision}}).Set(1);
  // Series that alerts compare with zero are there from the start.
  for (const char* result : {"accepted", "duplicate", "rejected"}) families_->submitted.Add({{"result", result}});
  families_->lease_expirations.Add({});
  families_->fenced.Add({{"operation", "any"}});
  families_->cycle.Add({}, kFast);
  for (const char* kind : {"unavailable", "other"}) families_->db_errors.Add({{"kind", kind}});
  families_->dropped.Add({{"reason", "too_slow"}});
  for (const char* reason : {"token_missing", "token_unknown", "role_not_allowed"}) families_->auth_failures.Add({{"reason", reason}});
  families_->streams.Add({});
  for (const char* direction : {"upload", "download"}) families_->transferred.Add({{"direction", direction}});
  families_->leader.Add({});
}

ServerMetrics::~ServerMetrics() = default;

void ServerMetrics::ObserveCall(std::string_view method, std::string_view code, Duration duration) {
  families_->calls.Add({{"grpc_method", std::string(method)}, {"grpc_status", std::string(code)}}, kCalls).Observe(Seconds(duration));
}
void ServerMetrics::CountAuthFailure(const std::string& reason) { families_->auth_failures.Add({{"reason", Lower(reason)}}).Increment(); }
void ServerMetrics::CountSubmitted(const std::string& result) { families_->submitted.Add({{"result", result}}).Increment(); }
void ServerMetrics::CountFinished(std::string_view outcome, std::string_view reason) {
  families_->finished.Add({{"outcome", Lower(outcome)}, {"reason", Lower(reason)}}).Increment();
}
void ServerMetrics::ObserveQueueWait(Duration waited) {
  families_->queue_wait.Add({{"priority_class", "normal"}}, kLong).Observe(Seconds(waited));
}
void ServerMetrics::ObserveRun(const std::string& method, const std::string& quantization, Duration run) {
  families_->run.Add({{"method", method}, {"quantization", quantization}}, kLong).Observe(Seconds(run));
}
void ServerMetrics::ObserveSchedulerCycle(Duration duration) { families_->cycle.Add({}, kFast).Observe(Seconds(duration)); }
void ServerMetrics::ObserveTransaction(const std::string& operation, Duration duration) {
  families_->transaction.Add({{"operation", operation}}, kFast).Observe(Seconds(duration));
}
void ServerMetrics::CountDbError(const std::string& kind) { families_->db_errors.Add({{"kind", kind}}).Increment(); }
void ServerMetrics::AddWatchStreams(int change) { families_->streams.Add({}).Increment(change); }
void ServerMetrics::CountDroppedWatch(const std::string& reason) { families_->dropped.Add({{"reason", reason}}).Increment(); }
void ServerMetrics::ObserveObjectStore(StoreOperation operation, bool ok, uint64_t bytes, Duration duration) {
  const std::string name(StoreOperationName(operation));
  families_->object_store.Add({{"operation", name}, {"result", ok ? "ok" : "error"}}, kFast).Observe(Seconds(duration));
  if (bytes == 0) return;
  const char* const direction = name.starts_with("get") ? "download" : "upload";
  families_->transferred.Add({{"direction", direction}}).Increment(static_cast<double>(bytes));
}

void ServerMetrics::SetGauges(const SchedulerSnapshot& snapshot, int worker_gpus, bool serving) {
  MutexLock lock(families_->catch_up);
  for (int state = 1; state <= static_cast<int>(core::JobState::kCancelling); ++state) {
    families_->jobs.Add({{"state", Lower(core::JobStateName(static_cast<core::JobState>(state)))}}).Set(0);
  }
  for (const auto& [state, count] : snapshot.works_by_state) {
    families_->jobs.Add({{"state", Lower(core::JobStateName(state))}}).Set(count);
  }
  for (const auto& [reason, count] : snapshot.attempts_ended) {
    const char* const outcome = reason == core::TerminationReason::kDone ? "committed" : "ended";
    CatchUp(families_->attempts.Add({{"outcome", outcome}, {"reason", Lower(core::TerminationReasonName(reason))}}), count);
  }
  CatchUp(families_->lease_expirations.Add({}), snapshot.expired_total);
  CatchUp(families_->fenced.Add({{"operation", "any"}}), snapshot.fenced_total);
  families_->oldest.Add({{"priority_class", "normal"}}).Set(snapshot.oldest_queued_seconds);
  families_->leases.Add({}).Set(snapshot.leases);
  families_->workers.Add({{"state", "ready"}}).Set(snapshot.workers_ready);
  families_->workers.Add({{"state", "draining"}}).Set(snapshot.workers_draining);
  families_->workers.Add({{"state", "lost"}}).Set(snapshot.workers_lost);
  families_->gpus.Add({{"state", "ready"}}).Set(worker_gpus);
  families_->leader.Add({}).Set(serving ? 1 : 0);
}

std::string ServerMetrics::Serialize(const SchedulerSnapshot& snapshot, int worker_gpus, bool serving) {
  SetGauges(snapshot, worker_gpus, serving);
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  for (prometheus::MetricFamily& family : ProcessMetrics()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace sbora::server
