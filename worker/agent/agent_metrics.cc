#include "worker/agent/agent_metrics.h"

#include <prometheus/text_serializer.h>

#include <utility>
#include <vector>

#include "common/metrics/process_metrics.h"

namespace sbora::agent {
namespace {

prometheus::Family<prometheus::Counter>& Counters(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

prometheus::Gauge& OneGauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add({});
}

}  // namespace

AgentMetrics::AgentMetrics()
    : steps_(Counters(registry_, "sbora_trainer_steps_total", "Optimizer steps of all attempts.")),
      tokens_(Counters(registry_, "sbora_trainer_tokens_total", "Tokens trained on by all attempts.")),
      non_finite_(Counters(registry_, "sbora_trainer_nonfinite_total", "Attempts that a loss or gradient which is not finite ended.")
                      .Add({})),
      rank_exits_(Counters(registry_, "sbora_trainer_rank_exits_total", "Ends of gangs by reason.")),
      checkpoint_seconds_(prometheus::BuildHistogram()
                              .Name("sbora_checkpoint_seconds")
                              .Help("Time of a checkpoint's stage.")
                              .Register(registry_)),
      checkpoint_bytes_(
          Counters(registry_, "sbora_checkpoint_written_bytes_total", "Bytes of uploaded checkpoints.").Add({})),
      checkpoint_failures_(
          Counters(registry_, "sbora_checkpoint_failures_total", "Checkpoints that could not be uploaded.")),
      transferred_(Counters(registry_, "sbora_object_store_transferred_bytes_total", "Bytes moved by the agent.")),
      dropped_reports_(Counters(registry_, "sbora_worker_reports_dropped_total",
                                "Metrics and events dropped while the coordinator was away.")
                           .Add({})),
      synchronize_(Counters(registry_, "sbora_worker_synchronize_total", "Calls of the coordinator by result.")),
      attempts_(OneGauge(registry_, "sbora_worker_attempts", "Attempts that the agent holds.")),
      cache_bytes_(OneGauge(registry_, "sbora_worker_cache_bytes", "Bytes in the file cache.")),
      cache_damaged_(Counters(registry_, "sbora_worker_cache_damaged_files_total",
                              "Cached files whose size or hash was not that of their resource; each was fetched again.")
                         .Add({})) {
  prometheus::BuildGauge()
      .Name("sbora_build_info")
      .Help("1, with version and revision as labels.")
      .Register(registry_)
      .Add({{"version", SBORA_VERSION}, {"revision", SBORA_REVISION}})
      .Set(1);
  for (const char* reason : {"ok", "error", "signal", "oom_host", "oom_gpu", "hang"}) rank_exits_.Add({{"reason", reason}});
}

void AgentMetrics::AddStep(std::string_view method, int64_t tokens) {
  steps_.Add({{"method", std::string(method)}}).Increment();
  if (tokens > 0) tokens_.Add({{"method", std::string(method)}}).Increment(static_cast<double>(tokens));
}

void AgentMetrics::AddNonFinite() { non_finite_.Increment(); }

void AgentMetrics::AddRankExit(std::string_view reason) { rank_exits_.Add({{"reason", std::string(reason)}}).Increment(); }

void AgentMetrics::AddCheckpoint(double upload_seconds, int64_t bytes) {
  checkpoint_seconds_.Add({{"stage", "upload"}}, prometheus::Histogram::BucketBoundaries{0.01, 0.1, 0.5, 1, 5, 30, 120})
      .Observe(upload_seconds);
  checkpoint_bytes_.Increment(static_cast<double>(bytes));
}

void AgentMetrics::AddCheckpointFailure(std::string_view reason) {
  checkpoint_failures_.Add({{"reason", std::string(reason)}}).Increment();
}

void AgentMetrics::AddTransferred(std::string_view direction, int64_t bytes) {
  transferred_.Add({{"direction", std::string(direction)}}).Increment(static_cast<double>(bytes));
}

void AgentMetrics::AddDroppedReports(int64_t count) { dropped_reports_.Increment(static_cast<double>(count)); }

void AgentMetrics::AddSynchronize(bool ok) { synchronize_.Add({{"result", ok ? "ok" : "error"}}).Increment(); }

void AgentMetrics::SetAttempts(int count) { attempts_.Set(count); }

void AgentMetrics::SetCacheBytes(int64_t bytes) { cache_bytes_.Set(static_cast<double>(bytes)); }

void AgentMetrics::AddDamagedCacheFile() { cache_damaged_.Increment(); }

std::string AgentMetrics::Text() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  for (prometheus::MetricFamily& family : ProcessMetrics()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace sbora::agent
