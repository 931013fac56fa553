/// A store that tells of itself: it counts transactions and their time, failures, and the ends of jobs as they become
/// durable, and logs each change of a state with job, attempt and epoch.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "common/clock.h"
#include "server/http/metrics.h"
#include "server/store/store.h"

namespace sbora::server {

/// Threading as the store's. `metrics` and `clock` must outlive it.
class MeasuredStore final : public Store {
 public:
  MeasuredStore(std::unique_ptr<Store> store, ServerMetrics& metrics, const Clock& clock)
      : store_(std::move(store)), metrics_(metrics), clock_(clock), opened_ms_(ToUnixMillis(clock.WallNow())) {}

  StatusOr<std::vector<Status>> Commit(std::span<const WriteSet* const> batch) override;

  StatusOr<ActiveState> LoadActive() const override { return store_->LoadActive(); }
  StatusOr<Work> GetWork(std::string_view name) const override { return store_->GetWork(name); }
  StatusOr<Work> GetWorkByUid(std::string_view uid) const override { return store_->GetWorkByUid(uid); }
  StatusOr<std::optional<Work>> FindCommittedBy(std::string_view lease_uid) const override { return store_->FindCommittedBy(lease_uid); }
  StatusOr<Page<Work>> ListWork(const WorkQuery& query) const override { return store_->ListWork(query); }
  StatusOr<std::map<core::JobState, int64_t>> CountWork(std::string_view project, WorkKind kind) const override {
    return store_->CountWork(project, kind);
  }
  StatusOr<std::vector<EventRow>> ListEvents(std::string_view work_uid, int64_t after_sequence, int limit) const override {
    return store_->ListEvents(work_uid, after_sequence, limit);
  }
  StatusOr<std::vector<StreamItem>> ListStream(std::string_view work_uid, int64_t after_sequence, int limit) const override {
    return store_->ListStream(work_uid, after_sequence, limit);
  }
  StatusOr<std::vector<MetricRow>> ListMetrics(std::string_view work_uid, int64_t after_step, int limit) const override {
    return store_->ListMetrics(work_uid, after_step, limit);
  }
  StatusOr<std::vector<CheckpointRow>> ListCheckpoints(std::string_view work_uid, int64_t after_step, int limit) const override {
    return store_->ListCheckpoints(work_uid, after_step, limit);
  }
  StatusOr<ResourceRow> GetResource(std::string_view name) const override { return store_->GetResource(name); }
  StatusOr<Page<ResourceRow>> ListResources(ResourceKind kind, std::string_view project, int page_size,
                                            std::string_view cursor) const override {
    return store_->ListResources(kind, project, page_size, cursor);
  }
  StatusOr<bool> IsNameTaken(std::string_view name) const override { return store_->IsNameTaken(name); }
  StatusOr<std::optional<RequestRow>> FindRequest(std::string_view project, std::string_view request_id) const override {
    return store_->FindRequest(project, request_id);
  }
  StatusOr<HeldRegions> ListRegions(std::string_view project, std::string_view base_hash) const override {
    return store_->ListRegions(project, base_hash);
  }
  StatusOr<std::optional<RegionRow>> FindRegions(std::string_view adapter) const override {
    return store_->FindRegions(adapter);
  }
  StatusOr<UploadRow> GetUpload(std::string_view uid) const override { return store_->GetUpload(uid); }
  StatusOr<std::vector<UploadRow>> ListExpiredUploads(int64_t now_ms, int limit) const override {
    return store_->ListExpiredUploads(now_ms, limit);
  }
  StatusOr<ObjectRow> GetObject(std::string_view uid) const override { return store_->GetObject(uid); }
  StatusOr<std::vector<ObjectRow>> ListUnownedObjects(int64_t created_before_ms, int limit) const override {
    return store_->ListUnownedObjects(created_before_ms, limit);
  }
  StatusOr<std::vector<std::string>> ListDoomedKeys(int64_t now_ms, std::string_view after_key, int limit) const override {
    return store_->ListDoomedKeys(now_ms, after_key, limit);
  }
  StatusOr<std::vector<WorkerRow>> ListWorkers() const override { return store_->ListWorkers(); }
  StatusOr<int> SchemaVersion() const override { return store_->SchemaVersion(); }
  std::string_view kind() const override { return store_->kind(); }

 private:
  void CountWork(const PutWork& put);
  static void LogStates(const WriteSet& set);

  const std::unique_ptr<Store> store_;
  ServerMetrics& metrics_;
  const Clock& clock_;
  const int64_t opened_ms_;
  std::set<std::string> started_;  // uids of work that was seen running; the commit thread's alone
  std::set<std::string> counted_;  // uids of ended work; the commit thread's alone
};

}  // namespace sbora::server
