#include "server/services/measured_store.h"

#include "common/logging.h"
#include "core/proto/convert.h"
#include "sbora/v1/job.pb.h"

namespace sbora::server {
namespace {

/// A row is written many times in one state; the newest uids are enough to tell.
constexpr size_t kMaxCounted = 10'000;

bool FirstTime(std::set<std::string>& seen, const std::string& uid) {
  if (!seen.insert(uid).second) return false;
  if (seen.size() > kMaxCounted) seen.erase(seen.begin());  // UUIDv7: the oldest
  return true;
}

}  // namespace

void MeasuredStore::CountWork(const PutWork& put) {
  const WorkRow& row = put.row;
  if (row.kind != WorkKind::kTrain) return;
  // A restarted server sees a running job for the first time, but its wait is long over.
  if (row.state == core::JobState::kRunning && row.attempt == 1 && row.start_ms >= opened_ms_ && FirstTime(started_, row.uid)) {
    metrics_.ObserveQueueWait(std::chrono::milliseconds(row.start_ms - row.create_ms));
  }
  if (!core::IsTerminal(row.state) || !FirstTime(counted_, row.uid)) return;
  metrics_.CountFinished(core::JobStateName(row.state), core::TerminationReasonName(row.reason));
  if (row.start_ms == 0) return;
  const StatusOr<Work> work = store_->GetWorkByUid(row.uid);
  v1::FineTuningJob job;
  if (!work.ok() || !job.ParseFromString(work->payload->spec)) return;
  const char* const quantization = job.spec().quantization() == v1::QUANTIZATION_NF4 ? "nf4" : "none";
  const StatusOr<core::AdapterMethod> method = core::ParseMethod(job.spec().adapter().method());
  metrics_.ObserveRun(method.ok() ? std::string(core::AdapterMethodName(*method)) : "other", quantization,
                      std::chrono::milliseconds(row.end_ms - row.start_ms));
}

void MeasuredStore::LogStates(const WriteSet& set) {
  for (const Mutation& mutation : set.mutations) {
    const auto* const event = std::get_if<AddEvent>(&mutation);
    if (event == nullptr || event->row.type != "STATE_CHANGED") continue;
    for (const Mutation& other : set.mutations) {
      const auto* const put = std::get_if<PutWork>(&other);
      if (put == nullptr || put->row.uid != event->row.work_uid) continue;
      const LogLevel level = event->row.level >= 3 ? LogLevel::kError : event->row.level == 2 ? LogLevel::kWarn : LogLevel::kInfo;
      Log(level, event->row.message, {{"job", put->row.name}, {"attempt", put->row.attempt}, {"epoch", put->row.epoch}});
    }
  }
}

StatusOr<std::vector<Status>> MeasuredStore::Commit(std::span<const WriteSet* const> batch) {
  const MonotonicTime start = clock_.Now();
  StatusOr<std::vector<Status>> result = store_->Commit(batch);
  metrics_.ObserveTransaction("commit", clock_.Now() - start);
  if (!result.ok()) {
    metrics_.CountDbError(result.status().code() == StatusCode::kUnavailable ? "unavailable" : "other");
    return result;
  }
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!(*result)[i].ok()) continue;  // refused: nothing of it is in the store
    LogStates(*batch[i]);
    for (const Mutation& mutation : batch[i]->mutations) {
      if (const auto* put = std::get_if<PutWork>(&mutation)) CountWork(*put);
    }
  }
  return result;
}

}  // namespace sbora::server
