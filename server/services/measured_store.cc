#include "server/services/measured_store.h"

#include "sbora/v1/job.pb.h"

namespace sbora::server {
namespace {

/// An ended row may be written again when its lease ends; the newest uids are enough to tell.
constexpr size_t kMaxCounted = 10'000;

std::string MethodLabel(v1::Method method) {
  if (method == v1::METHOD_SBORA_FA) return "sbora_fa";
  return method == v1::METHOD_SBORA_FB ? "sbora_fb" : "other";
}

}  // namespace

void MeasuredStore::CountWork(const PutWork& put) {
  const WorkRow& row = put.row;
  if (row.kind != WorkKind::kTrain || !core::IsTerminal(row.state) || !counted_.insert(row.uid).second) return;
  if (counted_.size() > kMaxCounted) counted_.erase(counted_.begin());  // UUIDv7: the oldest
  metrics_.CountFinished(core::JobStateName(row.state), core::TerminationReasonName(row.reason));
  if (row.start_ms == 0) return;
  metrics_.ObserveQueueWait(std::chrono::milliseconds(row.start_ms - row.create_ms));
  const StatusOr<Work> work = store_->GetWorkByUid(row.uid);
  v1::FineTuningJob job;
  if (!work.ok() || !job.ParseFromString(work->payload->spec)) return;
  metrics_.ObserveRun(MethodLabel(job.spec().adapter().method()), "none", std::chrono::milliseconds(row.end_ms - row.start_ms));
}

StatusOr<std::vector<Status>> MeasuredStore::Commit(std::span<const WriteSet* const> batch) {
  const MonotonicTime start = clock_.Now();
  StatusOr<std::vector<Status>> result = store_->Commit(batch);
  metrics_.ObserveTransaction("commit", clock_.Now() - start);
  if (!result.ok()) {
    metrics_.CountDbError(result.status().code() == StatusCode::kUnavailable ? "unavailable" : "other");
    return result;
  }
  for (const WriteSet* set : batch) {
    for (const Mutation& mutation : set->mutations) {
      if (const auto* put = std::get_if<PutWork>(&mutation)) CountWork(*put);
    }
  }
  return result;
}

}  // namespace sbora::server
