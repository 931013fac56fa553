/// What the HTTP side needs from the server, as JSON texts; implemented in server/services/web_backend.h and by a fake in
/// the tests of server/http.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace sbora::server {

/// One server-sent event. `data` is one line of JSON.
struct WatchMessage {
  int64_t sequence = 0;  ///< 0 for live-only messages, which are not replayed
  std::string kind;      ///< "job", "event", "metric" or "progress"
  std::string data;
};

/// One reader's place in a job's stream. Used by one thread at a time.
class WatchCursor {
 public:
  virtual ~WatchCursor() = default;
  /// Waits for at most `timeout` and returns what is there, possibly nothing. Errors end the stream.
  virtual StatusOr<std::vector<WatchMessage>> Next(std::chrono::milliseconds timeout) = 0;
  /// True once the job has ended and everything was handed out.
  virtual bool Done() const = 0;
};

/// Thread-safe. Answers are protobuf JSON with all fields printed.
class ApiBackend {
 public:
  virtual ~ApiBackend() = default;
  /// True while the server takes work (health SERVING).
  virtual bool Ready() const = 0;
  /// OK when the bearer token (empty for none) may read. UNAUTHENTICATED or PERMISSION_DENIED otherwise.
  virtual Status Authorize(std::string_view bearer_token) = 0;
  virtual std::string ServerInfo() = 0;
  /// {"states": {"RUNNING": 2, ...}} of one project.
  virtual StatusOr<std::string> Summary(const std::string& project) = 0;
  virtual StatusOr<std::string> ListJobs(const std::string& project, int page_size, const std::string& page_token) = 0;
  /// `name` is a job's full name in all of these.
  virtual StatusOr<std::string> GetJob(const std::string& name) = 0;
  /// {"metrics": [...]}: from the first step to the newest, thinned evenly to fewer than 10,000 points.
  virtual StatusOr<std::string> JobMetrics(const std::string& name) = 0;
  /// {"events": [...], "sequence": n}: the newest 300, and where a watch goes on.
  virtual StatusOr<std::string> JobEvents(const std::string& name) = 0;
  virtual StatusOr<std::unique_ptr<WatchCursor>> Watch(const std::string& name, int64_t after_sequence) = 0;
  virtual StatusOr<std::string> ListWorkers() = 0;
  /// The text of /metrics.
  virtual std::string Metrics() = 0;
};

}  // namespace sbora::server
