#include "server/services/sweeper.h"

#include <pthread.h>

#include "common/logging.h"
#include "common/status_macros.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr int kBatch = 500;
/// A new object may be about to get its owner.
constexpr std::chrono::hours kObjectGrace{1};
/// The caller of a generation that has just ended is about to read it.
constexpr std::chrono::minutes kAnswerGrace{5};

Status SweepUploads(const ServiceContext& services, int64_t now_ms) {
  SBORA_ASSIGN_OR_RETURN(const std::vector<UploadRow> uploads, services.store().ListExpiredUploads(now_ms, kBatch));
  for (const UploadRow& upload : uploads) {
    SBORA_RETURN_IF_ERROR(services.coordinator->Write({RemoveObjectOwner{"", upload.uid}, DeleteUpload{upload.uid}}));
    services.uploads->Remove(upload.uid);
    // Bytes that came by URL, or whose FinishUpload was cut off, have no row that would ever lead to them.
    if (upload.finished || services.store().GetObject(upload.uid).status().code() != StatusCode::kNotFound) continue;
    services.objects->Delete(ObjectKey(upload.project, upload.uid)).IgnoreError("most have no bytes there");
  }
  return OkStatus();
}

Status SweepObjects(const ServiceContext& services, int64_t now_ms) {
  const int64_t before = now_ms - std::chrono::duration_cast<std::chrono::milliseconds>(kObjectGrace).count();
  SBORA_ASSIGN_OR_RETURN(const std::vector<ObjectRow> objects, services.store().ListUnownedObjects(before, kBatch));
  for (const ObjectRow& object : objects) {
    SBORA_RETURN_IF_ERROR(services.coordinator->Write({DeleteObject{object.uid}}));
    SBORA_RETURN_IF_ERROR(services.objects->Delete(object.key));
  }
  return OkStatus();
}

Status SweepGenerations(const ServiceContext& services, int64_t now_ms) {
  const int64_t before = now_ms - std::chrono::duration_cast<std::chrono::milliseconds>(kAnswerGrace).count();
  WorkQuery query;
  query.kinds = {WorkKind::kGenerate};
  query.states = {core::JobState::kSucceeded, core::JobState::kFailed, core::JobState::kCancelled};
  query.page_size = kBatch;
  SBORA_ASSIGN_OR_RETURN(const Page<Work> page, services.store().ListWork(query));
  for (const Work& work : page.rows) {
    if (work.row.end_ms < before) services.coordinator->Delete(work.row.name, 0).IgnoreError("the next pass tries again");
  }
  return OkStatus();
}

}  // namespace

Status Sweeper::SweepOnce(const ServiceContext& services) {
  const int64_t now_ms = ToUnixMillis(services.clock->WallNow());
  SBORA_RETURN_IF_ERROR(SweepUploads(services, now_ms));
  SBORA_RETURN_IF_ERROR(SweepGenerations(services, now_ms));
  return SweepObjects(services, now_ms);
}

Sweeper::Sweeper(const ServiceContext& services, Duration every)
    : services_(services), thread_([this, every](const std::stop_token& stop) {
        pthread_setname_np(pthread_self(), "sweeper");
        while (services_.clock->SleepUntil(services_.clock->Now() + every, stop)) {
          const Status swept = SweepOnce(services_);
          if (!swept.ok()) LogWarn("Sweeping will be tried again", {{"error", swept.ToString()}});
        }
      }) {}

Sweeper::~Sweeper() = default;

}  // namespace sbora::server
