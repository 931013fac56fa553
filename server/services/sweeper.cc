#include "server/services/sweeper.h"

#include <pthread.h>

#include "common/logging.h"
#include "common/status_macros.h"

namespace sbora::server {
namespace {

constexpr int kBatch = 500;
/// A new object may be about to get its owner.
constexpr std::chrono::hours kObjectGrace{1};

Status SweepUploads(const ServiceContext& services, int64_t now_ms) {
  SBORA_ASSIGN_OR_RETURN(const std::vector<UploadRow> uploads, services.store().ListExpiredUploads(now_ms, kBatch));
  for (const UploadRow& upload : uploads) {
    SBORA_RETURN_IF_ERROR(services.coordinator->Write({RemoveObjectOwner{"", upload.uid}, DeleteUpload{upload.uid}}));
    services.uploads->Remove(upload.uid);
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

Status SweepGenerations(const ServiceContext& services) {
  WorkQuery query;
  query.kinds = {WorkKind::kGenerate};
  query.states = {core::JobState::kSucceeded, core::JobState::kFailed, core::JobState::kCancelled};
  query.page_size = kBatch;
  SBORA_ASSIGN_OR_RETURN(const Page<Work> page, services.store().ListWork(query));
  for (const Work& work : page.rows) services.coordinator->Delete(work.row.name, 0).IgnoreError("the next pass tries again");
  return OkStatus();
}

}  // namespace

Status Sweeper::SweepOnce(const ServiceContext& services) {
  const int64_t now_ms = ToUnixMillis(services.clock->WallNow());
  SBORA_RETURN_IF_ERROR(SweepUploads(services, now_ms));
  SBORA_RETURN_IF_ERROR(SweepGenerations(services));
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
