/// What the HTTP port shows, out of scheduler and store.
#pragma once

#include <map>

#include "common/mutex.h"
#include "server/http/api_backend.h"
#include "server/services/context.h"

namespace sbora::server {

/// Thread-safe; `services` must outlive it.
class WebBackend final : public ApiBackend {
 public:
  explicit WebBackend(const ServiceContext& services) : services_(services) {}

  bool Ready() const override { return services_.coordinator->serving(); }
  Status Authorize(std::string_view bearer_token) override;
  std::string ServerInfo() override;
  StatusOr<std::string> Summary(const std::string& project) override;
  StatusOr<std::string> ListJobs(const std::string& project, int page_size, const std::string& page_token) override;
  StatusOr<std::string> GetJob(const std::string& name) override;
  StatusOr<std::string> JobMetrics(const std::string& name) override;
  StatusOr<std::string> JobEvents(const std::string& name) override;
  StatusOr<std::unique_ptr<WatchCursor>> Watch(const std::string& name, int64_t after_sequence) override;
  StatusOr<std::string> ListWorkers() override;
  std::string Metrics() override;

 private:
  struct Counted {
    MonotonicTime until;
    std::string json;
  };
  StatusOr<std::string> Count(const std::string& project) const;

  const ServiceContext& services_;
  Mutex mutex_;
  std::map<std::string, Counted> summaries_ SBORA_GUARDED_BY(mutex_);
};

}  // namespace sbora::server
