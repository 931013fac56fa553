/// The agent's Prometheus metrics, all with closed label sets. Thread-safe.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <string>
#include <string_view>

namespace sbora::agent {

class AgentMetrics {
 public:
  AgentMetrics();

  void AddStep(std::string_view method, int64_t tokens);
  void AddNonFinite();
  /// `reason`: ok, error, signal, oom_host, oom_gpu, hang.
  void AddRankExit(std::string_view reason);
  void AddCheckpoint(double upload_seconds, int64_t bytes);
  /// `reason`: upload, no_space.
  void AddCheckpointFailure(std::string_view reason);
  /// `direction`: upload, download.
  void AddTransferred(std::string_view direction, int64_t bytes);
  void AddDroppedReports(int64_t count);
  void AddSynchronize(bool ok);
  void SetAttempts(int count);
  void SetCacheBytes(int64_t bytes);
  void AddDamagedCacheFile();

  /// The text of /metrics.
  std::string Text() const;

 private:
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>& steps_;
  prometheus::Family<prometheus::Counter>& tokens_;
  prometheus::Counter& non_finite_;
  prometheus::Family<prometheus::Counter>& rank_exits_;
  prometheus::Family<prometheus::Histogram>& checkpoint_seconds_;
  prometheus::Counter& checkpoint_bytes_;
  prometheus::Family<prometheus::Counter>& checkpoint_failures_;
  prometheus::Family<prometheus::Counter>& transferred_;
  prometheus::Counter& dropped_reports_;
  prometheus::Family<prometheus::Counter>& synchronize_;
  prometheus::Gauge& attempts_;
  prometheus::Gauge& cache_bytes_;
  prometheus::Counter& cache_damaged_;
};

}  // namespace sbora::agent
