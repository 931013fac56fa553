// Who gets which slots. Strict order of the queue; work that fits nowhere now, but could, holds back the best worker for
// it, so that small jobs cannot starve a gang. A gang sits on one worker.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/ids.h"
#include "server/scheduler/scheduler.h"

namespace sbora::server {

std::optional<DeviceKind> Scheduler::ResolveDevice(const WorkRow& row) const {
  const auto has = [&](DeviceKind device) SBORA_REQUIRES(mutex_) {
    return std::any_of(workers_.begin(), workers_.end(), [&](const auto& item) {
      return item.second.Grantable() && item.second.SlotsOf(device) >= row.ranks;
    });
  };
  // AUTO waits for a busy GPU rather than run on CPU slots for days.
  if (row.device != DeviceKind::kCpu && has(DeviceKind::kCuda)) return DeviceKind::kCuda;
  if (row.device != DeviceKind::kCuda && has(DeviceKind::kCpu)) return DeviceKind::kCpu;
  return std::nullopt;
}

void Scheduler::TellOfWorkers(Draft& draft, WorkEntry& work) {
  work.told_of_workers = true;
  const WorkRow& row = work.row;
  if (ResolveDevice(row)) return;
  int workers = 0;
  int most_cpu = 0;
  int most_cuda = 0;
  for (const auto& [name, worker] : workers_) {
    if (!worker.Grantable()) continue;
    ++workers;
    most_cpu = std::max(most_cpu, worker.SlotsOf(DeviceKind::kCpu));
    most_cuda = std::max(most_cuda, worker.SlotsOf(DeviceKind::kCuda));
  }
  const char* const device = row.device == DeviceKind::kAuto ? "CPU or CUDA" : row.device == DeviceKind::kCpu ? "CPU" : "CUDA";
  AddEvent(draft, work, 2, "NO_WORKER",
           fmt::format("waits for a worker with {} {} slot(s); {} ready worker(s) are connected, the largest with {} CPU and "
                       "{} CUDA slots (sbora-client workers list)",
                       row.ranks, device, workers, most_cpu, most_cuda),
           draft.at.wall_ms);
}

void Scheduler::Dispatch(Draft& draft) {
  dispatch_due_ = false;
  struct Offer {
    WorkerEntry* worker;
    DeviceKind device;
    int free;
    int total;
    bool held = false;
  };
  std::vector<Offer> offers;
  for (auto& [name, worker] : workers_) {
    if (!worker.Grantable()) continue;
    for (const DeviceKind device : {DeviceKind::kCpu, DeviceKind::kCuda}) {
      const int total = worker.SlotsOf(device);
      if (total > 0) offers.push_back({&worker, device, static_cast<int>(worker.FreeSlots(device).size()), total});
    }
  }
  std::vector<std::pair<std::string, Offer*>> grants;
  std::map<std::pair<DeviceKind, int>, std::optional<DeviceKind>> resolved;  // by what the work asks for
  for (const auto& [key, uid] : waiting_.order()) {
    const bool any = std::any_of(offers.begin(), offers.end(), [](const Offer& o) { return !o.held && o.free > 0; });
    if (!any) break;
    const WorkRow& row = works_.at(uid).row;
    const auto [known, fresh] = resolved.try_emplace({row.device, row.ranks});
    if (fresh) known->second = ResolveDevice(row);
    if (!known->second) continue;  // nobody has such slots: it waits, and holds up nobody
    Offer* best = nullptr;         // the tightest fit keeps large workers free for gangs
    Offer* roomiest = nullptr;
    for (Offer& offer : offers) {
      if (offer.held || offer.device != *known->second || offer.total < row.ranks) continue;
      if (offer.free >= row.ranks && (best == nullptr || offer.free < best->free)) best = &offer;
      if (roomiest == nullptr || offer.free > roomiest->free) roomiest = &offer;
    }
    if (best != nullptr) {
      best->free -= row.ranks;
      grants.emplace_back(uid, best);
    } else if (roomiest != nullptr) {
      roomiest->held = true;
    }
  }
  for (const auto& [uid, offer] : grants) {
    WorkEntry& work = works_.at(uid);
    std::vector<std::string> slots = offer->worker->FreeSlots(offer->device);
    slots.resize(static_cast<size_t>(work.row.ranks));
    Grant(draft, work, *offer->worker, std::move(slots));
  }
}

void Scheduler::Grant(Draft& draft, WorkEntry& work, WorkerEntry& worker, std::vector<std::string> slots) {
  waiting_.Remove(work.row.uid);
  ++work.row.epoch;
  ++work.row.attempt;
  work.row.worker = worker.row.name;
  work.row.resolved_device.clear();
  work.lease_uid = NewUuid7();
  LeaseEntry& lease = leases_[work.lease_uid];
  lease.row = LeaseRow{.id = {.uid = work.lease_uid, .epoch = work.row.epoch},
                       .work_uid = work.row.uid,
                       .worker = worker.row.name,
                       .instance_uuid = worker.row.instance_uuid,
                       .attempt = work.row.attempt,
                       .slots = std::move(slots),
                       .stop = StopReason::kNone,
                       .acknowledged_item = 0,
                       .start_checkpoint_step = work.row.checkpoint_step,
                       .running_ms = 0};
  lease.renewed = lease.counted = draft.at.now;
  for (const std::string& slot : lease.row.slots) worker.used[slot] = work.lease_uid;
  worker.leases.insert(work.lease_uid);
  draft.touched_leases.insert(work.lease_uid);
  draft.wake.insert(worker.row.name);
  ++totals_.granted_total;
  Apply(draft, work, core::JobEvent::kGranted,
        fmt::format("attempt {} on worker {}", work.row.attempt, worker.row.name));
  deadlines_.Push(*LeaseDeadline(lease), Deadlines::Kind::kLease, work.lease_uid);
}

}  // namespace sbora::server
