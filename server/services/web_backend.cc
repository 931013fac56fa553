#include "server/services/web_backend.h"

#include <google/protobuf/util/json_util.h>

#include <condition_variable>
#include <nlohmann/json.hpp>

#include "common/status_macros.h"
#include "server/services/admin_service.h"
#include "server/services/convert.h"
#include "server/services/curve_thinner.h"
#include "server/services/fine_tuning_service.h"
#include "server/services/requests.h"
#include "server/services/watch_stream.h"

namespace sbora::server {
namespace {

constexpr int kMaxMetrics = 20'000;
constexpr size_t kMaxPoints = 10'000;
constexpr int kMaxEvents = 300;
constexpr std::chrono::seconds kSummaryLife{3};
constexpr size_t kMaxSummaries = 100;
constexpr int kMaxBatch = 500;

StatusOr<std::string> ToJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto printed = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (printed.ok()) return json;
  return Internal("JSON_FAILED", printed.ToString());
}

/// Blocks its reader's thread on a condition that the watcher's wake-ups set.
class HubCursor final : public WatchCursor {
 public:
  HubCursor(const ServiceContext& services, std::string name) : services_(services), name_(std::move(name)), signal_(std::make_shared<Signal>()) {
    services_.metrics->AddWatchStreams(1);
  }
  ~HubCursor() override { services_.metrics->AddWatchStreams(-1); }

  Status Open(int64_t after_sequence) {
    SBORA_ASSIGN_OR_RETURN(watcher_, services_.coordinator->Watch(name_, after_sequence, [signal = signal_] {
      {
        MutexLock lock(signal->mutex);
        signal->woken = true;
      }
      signal->changed.notify_all();
    }));
    return OkStatus();
  }

  StatusOr<std::vector<WatchMessage>> Next(std::chrono::milliseconds timeout) override {
    SBORA_ASSIGN_OR_RETURN(std::vector<WatchMessage> messages, Drain());
    if (!messages.empty() || done_) return messages;
    {
      MutexLock lock(signal_->mutex);
      signal_->changed.wait_for(lock, timeout, [this]() SBORA_NO_THREAD_SAFETY_ANALYSIS { return signal_->woken; });
      signal_->woken = false;
    }
    return Drain();
  }

  bool Done() const override { return done_; }

 private:
  /// Shared with the watcher's wake-up, which may come while this object goes away.
  struct Signal {
    Mutex mutex;
    std::condition_variable_any changed;
    bool woken SBORA_GUARDED_BY(mutex) = false;
  };

  StatusOr<std::vector<WatchMessage>> Drain() {
    std::vector<WatchMessage> messages;
    while (static_cast<int>(messages.size()) < kMaxBatch) {
      StatusOr<std::optional<WatchItem>> item = watcher_->Next();
      if (!item.ok() && item.status().reason() == "WATCH_ENDED") {
        done_ = true;
        return messages;
      }
      if (!item.ok()) return item.status();
      if (!*item) return messages;
      SBORA_RETURN_IF_ERROR(Append(**item, messages));
    }
    return messages;
  }

  Status Append(const WatchItem& item, std::vector<WatchMessage>& messages) const {
    SBORA_ASSIGN_OR_RETURN(const v1::WatchFineTuningJobResponse message, MessageOf(services_, name_, item));
    // Here a message has one kind. The event goes first with the sequence before it: a page cut off between the two
    // gets both again, and knows the event by its own number.
    if (message.has_change()) SBORA_RETURN_IF_ERROR(Add(message.sequence() - 1, "event", message.change(), messages));
    switch (message.payload_case()) {
      case v1::WatchFineTuningJobResponse::kJob: return Add(message.sequence(), "job", message.job(), messages);
      case v1::WatchFineTuningJobResponse::kEvent: return Add(message.sequence(), "event", message.event(), messages);
      case v1::WatchFineTuningJobResponse::kMetric: return Add(message.sequence(), "metric", message.metric(), messages);
      case v1::WatchFineTuningJobResponse::kProgress: return Add(message.sequence(), "progress", message.progress(), messages);
      case v1::WatchFineTuningJobResponse::PAYLOAD_NOT_SET: break;
    }
    return OkStatus();
  }

  static Status Add(int64_t sequence, const char* kind, const google::protobuf::Message& content, std::vector<WatchMessage>& messages) {
    WatchMessage message;
    message.sequence = sequence;
    message.kind = kind;
    SBORA_ASSIGN_OR_RETURN(message.data, ToJson(content));
    messages.push_back(std::move(message));
    return OkStatus();
  }

  const ServiceContext& services_;
  const std::string name_;
  const std::shared_ptr<Signal> signal_;
  std::unique_ptr<Watcher> watcher_;
  bool done_ = false;
};

}  // namespace

Status WebBackend::Authorize(std::string_view bearer_token) {
  const Status allowed = services_.authenticator->Authorize(bearer_token, "sbora.v1.FineTuningService/GetFineTuningJob");
  if (!allowed.ok()) services_.metrics->CountAuthFailure(allowed.reason());
  return allowed;
}

std::string WebBackend::ServerInfo() {
  const StatusOr<std::string> json = ToJson(ServerInfoOf(services_));
  return json.ok() ? *json : "{}";
}

StatusOr<std::string> WebBackend::Count(const std::string& project) const {
  std::map<std::string, int64_t> states;
  SBORA_ASSIGN_OR_RETURN(const auto counts, services_.store().CountWork(project, WorkKind::kTrain));
  for (const auto& [state, count] : counts) states[std::string(core::JobStateName(state))] = count;
  return nlohmann::json{{"states", states}}.dump();
}

StatusOr<std::string> WebBackend::Summary(const std::string& project) {
  SBORA_RETURN_IF_ERROR(core::ParseProject(core::ProjectName(project), "project").status());
  const MonotonicTime now = services_.clock->Now();
  {
    MutexLock lock(mutex_);
    const auto found = summaries_.find(project);
    if (found != summaries_.end() && now < found->second.until) return found->second.json;
  }
  SBORA_ASSIGN_OR_RETURN(const std::string json, Count(project));
  MutexLock lock(mutex_);
  if (summaries_.size() >= kMaxSummaries) summaries_.clear();
  summaries_[project] = {now + kSummaryLife, json};
  return json;
}

StatusOr<std::string> WebBackend::ListJobs(const std::string& project, int page_size, const std::string& page_token) {
  SBORA_RETURN_IF_ERROR(core::ParseProject(core::ProjectName(project), "project").status());
  const std::string query = "web " + project;
  SBORA_ASSIGN_OR_RETURN(const PageRequest page, ParsePage(page_size, page_token, query));
  WorkQuery work_query;
  work_query.project = project;
  work_query.kinds = {WorkKind::kTrain};
  work_query.page_size = page.size;
  work_query.cursor = page.cursor;
  SBORA_ASSIGN_OR_RETURN(const Page<Work> works, services_.store().ListWork(work_query));
  v1::ListFineTuningJobsResponse response;
  for (const Work& work : works.rows) {
    SBORA_ASSIGN_OR_RETURN(*response.add_fine_tuning_jobs(), JobOf(work, services_.coordinator->Progress(work.row.uid)));
  }
  response.set_next_page_token(PageToken(works.next_cursor, query));
  return ToJson(response);
}

StatusOr<std::string> WebBackend::GetJob(const std::string& name) {
  SBORA_ASSIGN_OR_RETURN(const Work work, FindJob(services_, name, "name"));
  SBORA_ASSIGN_OR_RETURN(const v1::FineTuningJob job, JobOf(work, services_.coordinator->Progress(work.row.uid)));
  return ToJson(job);
}

StatusOr<std::string> WebBackend::JobMetrics(const std::string& name) {
  SBORA_ASSIGN_OR_RETURN(const Work work, FindJob(services_, name, "name"));
  CurveThinner curve(kMaxPoints);
  int64_t last_step = -1;
  for (bool more = true; more;) {
    SBORA_ASSIGN_OR_RETURN(const std::vector<MetricRow> rows, services_.store().ListMetrics(work.row.uid, last_step, kMaxMetrics));
    more = rows.size() == static_cast<size_t>(kMaxMetrics);
    if (!rows.empty()) last_step = rows.back().step;
    for (const MetricRow& row : rows) {
      SBORA_ASSIGN_OR_RETURN(v1::MetricPoint point, MetricOf(row));
      curve.Add(std::move(point));
    }
  }
  v1::ListFineTuningMetricsResponse response;
  for (v1::MetricPoint& point : std::move(curve).Take()) *response.add_metrics() = std::move(point);
  return ToJson(response);
}

StatusOr<std::string> WebBackend::JobEvents(const std::string& name) {
  SBORA_ASSIGN_OR_RETURN(const Work work, FindJob(services_, name, "name"));
  // The newest ones: sequences count events and metrics together, so the first look may find fewer.
  std::vector<EventRow> rows;
  for (int64_t back = kMaxEvents;; back *= 8) {
    const int64_t after = std::max<int64_t>(0, work.row.sequence - back);
    SBORA_ASSIGN_OR_RETURN(rows, services_.store().ListEvents(work.row.uid, after, static_cast<int>(std::min<int64_t>(back, kMaxMetrics))));
    if (after == 0 || rows.size() >= static_cast<size_t>(kMaxEvents)) break;
  }
  const size_t first = rows.size() > static_cast<size_t>(kMaxEvents) ? rows.size() - static_cast<size_t>(kMaxEvents) : 0;
  nlohmann::json events = nlohmann::json::array();
  for (size_t i = first; i < rows.size(); ++i) {
    SBORA_ASSIGN_OR_RETURN(const std::string json, ToJson(EventOf(rows[i])));
    events.push_back(nlohmann::json::parse(json, nullptr, false));
  }
  return nlohmann::json{{"events", events}, {"sequence", work.row.sequence}}.dump();
}

StatusOr<std::unique_ptr<WatchCursor>> WebBackend::Watch(const std::string& name, int64_t after_sequence) {
  SBORA_ASSIGN_OR_RETURN(const core::ResourceName parsed, core::ParseName(name, core::Collection::kFineTuningJobs, "name"));
  auto cursor = std::make_unique<HubCursor>(services_, parsed.ToString());
  SBORA_RETURN_IF_ERROR(cursor->Open(std::max<int64_t>(0, after_sequence)));
  return std::unique_ptr<WatchCursor>(std::move(cursor));
}

StatusOr<std::string> WebBackend::ListWorkers() {
  v1::ListWorkersResponse response;
  for (const WorkerView& view : services_.coordinator->ListWorkers()) *response.add_workers() = WorkerOf(view);
  return ToJson(response);
}

std::string WebBackend::Metrics() {
  int gpus = 0;
  for (const WorkerView& view : services_.coordinator->ListWorkers()) {
    if (view.row.state == WorkerState::kReady) gpus += static_cast<int>(view.row.gpus.size());
  }
  return services_.metrics->Serialize(services_.coordinator->Snapshot(), gpus, services_.coordinator->serving());
}

}  // namespace sbora::server
