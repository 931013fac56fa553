#include "server/services/sweeper.h"

#include <pthread.h>

#include "common/logging.h"
#include "common/status_macros.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr int kBatch = 500;
/// Somebody who has just looked at an object may be about to own it.
constexpr std::chrono::minutes kObjectGrace{10};
/// The caller of a generation that has just ended is about to read it.
constexpr std::chrono::minutes kAnswerGrace{5};
/// How long a repeat of a request is known to be one.
constexpr std::chrono::hours kRequestLife{7 * 24};
/// An object store that refuses this many in a row is away: the next pass goes on.
constexpr int kMaxFailuresInARow = 10;

int64_t Before(int64_t now_ms, std::chrono::milliseconds grace) { return now_ms - grace.count(); }

/// What removes one upload. Bytes that came by URL, or whose FinishUpload was cut off, have no row that leads to them.
void AddUpload(const UploadRow& upload, std::vector<Mutation>& mutations) {
  mutations.push_back(DeleteUpload{upload.uid});
  if (!upload.finished) mutations.push_back(DoomKey{upload.project, ObjectKey(upload.project, upload.uid), 0});
}

Status SweepUploads(const ServiceContext& services, int64_t now_ms, const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    SBORA_ASSIGN_OR_RETURN(const std::vector<UploadRow> uploads, services.store().ListExpiredUploads(now_ms, kBatch));
    if (uploads.empty()) break;
    std::vector<Mutation> mutations;
    for (const UploadRow& upload : uploads) AddUpload(upload, mutations);
    SBORA_RETURN_IF_ERROR(services.coordinator->Write(std::move(mutations)));
    for (const UploadRow& upload : uploads) services.uploads->Remove(upload.uid);
  }
  return OkStatus();
}

Status SweepObjects(const ServiceContext& services, int64_t now_ms, const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    SBORA_ASSIGN_OR_RETURN(const std::vector<ObjectRow> objects,
                           services.store().ListUnownedObjects(Before(now_ms, kObjectGrace), kBatch));
    if (objects.empty()) break;
    std::vector<Mutation> mutations;
    for (const ObjectRow& object : objects) mutations.push_back(DeleteObject{object.uid});
    SBORA_RETURN_IF_ERROR(services.coordinator->Write(std::move(mutations)));
  }
  return OkStatus();
}

/// A key is forgotten only once its bytes are gone, so that neither an error nor a crash in between loses them.
Status SweepKeys(const ServiceContext& services, int64_t now_ms, const std::stop_token& stop) {
  Status first_failure;
  int failures = 0;
  std::string after;
  while (!stop.stop_requested() && failures < kMaxFailuresInARow) {
    SBORA_ASSIGN_OR_RETURN(const std::vector<std::string> keys, services.store().ListDoomedKeys(now_ms, after, kBatch));
    if (keys.empty()) break;
    std::vector<Mutation> gone;
    for (const std::string& key : keys) {
      if (stop.stop_requested() || failures >= kMaxFailuresInARow) break;
      const Status deleted = services.objects->Delete(key);
      failures = deleted.ok() ? 0 : failures + 1;
      if (deleted.ok()) gone.push_back(ForgetKey{key});
      if (!deleted.ok() && first_failure.ok()) first_failure = deleted.WithContext(key);
    }
    after = keys.back();
    SBORA_RETURN_IF_ERROR(services.coordinator->Write(std::move(gone)));
  }
  return first_failure;
}

Status SweepGenerations(const ServiceContext& services, int64_t now_ms, const std::stop_token& stop) {
  WorkQuery query;
  query.kinds = {WorkKind::kGenerate};
  query.states = {core::JobState::kSucceeded, core::JobState::kFailed, core::JobState::kCancelled};
  query.page_size = kBatch;
  do {
    SBORA_ASSIGN_OR_RETURN(const Page<Work> page, services.store().ListWork(query));
    for (const Work& work : page.rows) {
      if (stop.stop_requested()) return OkStatus();
      if (work.row.end_ms >= Before(now_ms, kAnswerGrace)) continue;
      services.coordinator->Delete(work.row.name, 0).IgnoreError("the next pass tries again");
    }
    query.cursor = page.next_cursor;
  } while (!query.cursor.empty());
  return OkStatus();
}

}  // namespace

Status Sweeper::SweepOnce(const ServiceContext& services, const std::stop_token& stop) {
  const int64_t now_ms = ToUnixMillis(services.clock->WallNow());
  SBORA_RETURN_IF_ERROR(services.coordinator->Write({PruneRequests{Before(now_ms, kRequestLife)}}));
  SBORA_RETURN_IF_ERROR(SweepUploads(services, now_ms, stop));
  SBORA_RETURN_IF_ERROR(SweepGenerations(services, now_ms, stop));
  SBORA_RETURN_IF_ERROR(SweepObjects(services, now_ms, stop));
  return SweepKeys(services, now_ms, stop);
}

Sweeper::Sweeper(const ServiceContext& services, Duration every)
    : services_(services), thread_([this, every](const std::stop_token& stop) {
        pthread_setname_np(pthread_self(), "sweeper");
        while (services_.clock->SleepUntil(services_.clock->Now() + every, stop)) {
          const Status swept = SweepOnce(services_, stop);
          if (!swept.ok()) LogWarn("Sweeping will be tried again", {{"error", swept.ToString()}});
        }
      }) {}

Sweeper::~Sweeper() = default;

}  // namespace sbora::server
