/// All Prometheus series of sbora-server. Label values come from closed sets only: no job, project or user names.
///
/// Thread-safe. Counters and histograms are fed where things happen; gauges are read off the scheduler when /metrics is
/// asked for.
#pragma once

#include <prometheus/registry.h>

#include <memory>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/storage/counting_object_store.h"
#include "server/scheduler/types.h"

namespace sbora::server {

class ServerMetrics {
 public:
  ServerMetrics(const std::string& version, const std::string& revision);
  ~ServerMetrics();

  /// `method` "package.Service/Method", `code` "OK", "NOT_FOUND", ...
  void ObserveCall(std::string_view method, std::string_view code, Duration duration);
  void CountAuthFailure(const std::string& reason);
  /// result: accepted, duplicate, rejected.
  void CountSubmitted(const std::string& result);
  void CountFinished(std::string_view outcome, std::string_view reason);
  void ObserveQueueWait(Duration waited);
  void ObserveRun(const std::string& method, const std::string& quantization, Duration run);
  void ObserveSchedulerCycle(Duration duration);
  void ObserveTransaction(const std::string& operation, Duration duration);
  void CountDbError(const std::string& kind);
  void AddWatchStreams(int change);
  void CountDroppedWatch(const std::string& reason);
  void ObserveObjectStore(StoreOperation operation, bool ok, uint64_t bytes, Duration duration);

  /// The text format, with the gauges as of now.
  std::string Serialize(const SchedulerSnapshot& snapshot, int worker_gpus, bool serving);

 private:
  struct Families;
  void SetGauges(const SchedulerSnapshot& snapshot, int worker_gpus, bool serving);

  prometheus::Registry registry_;
  std::unique_ptr<Families> families_;
};

}  // namespace sbora::server
