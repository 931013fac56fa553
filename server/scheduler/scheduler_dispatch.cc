// Who gets which slots. Strict order of the queue; work that fits nowhere now, but could, holds back the best worker for
// it, so that small jobs cannot starve a gang. A gang sits on one worker where any has that many slots, busy or not; only
// otherwise on several.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/ids.h"
#include "server/scheduler/scheduler.h"

namespace sbora::server {
namespace {

/// Slots of one kind on one worker, while it is decided who gets them.
struct Offer {
  WorkerEntry* worker;
  DeviceKind device;
  int free;
  int total;
  bool held = false;
};

/// How many slots of an offer one piece of work gets.
struct Share {
  Offer* offer;
  int slots;
};

/// The tightest fit, which keeps large workers free for gangs. Nothing when none fits now: the roomiest is held back.
std::vector<Share> OnOneWorker(std::vector<Offer>& offers, DeviceKind device, int ranks) {
  Offer* best = nullptr;
  Offer* roomiest = nullptr;
  for (Offer& offer : offers) {
    if (offer.held || offer.device != device || offer.total < ranks) continue;
    if (offer.free >= ranks && (best == nullptr || offer.free < best->free)) best = &offer;
    if (roomiest == nullptr || offer.free > roomiest->free) roomiest = &offer;
  }
  if (best != nullptr) return {{best, ranks}};
  if (roomiest != nullptr) roomiest->held = true;
  return {};
}

/// The roomiest first, so that the parts are few. Nothing when they have too few free slots: all are held back.
std::vector<Share> OverSeveral(std::vector<Offer>& offers, DeviceKind device, int ranks) {
  std::vector<Offer*> usable;
  for (Offer& offer : offers) {
    if (!offer.held && offer.device == device && !offer.worker->gang_address.empty()) usable.push_back(&offer);
  }
  std::stable_sort(usable.begin(), usable.end(), [](const Offer* a, const Offer* b) { return a->free > b->free; });
  std::vector<Share> shares;
  int missing = ranks;
  for (Offer* offer : usable) {
    const int slots = std::min(offer->free, missing);
    if (slots > 0) shares.push_back({offer, slots});
    missing -= slots;
  }
  if (missing == 0) return shares;
  for (Offer* offer : usable) offer->held = true;
  return {};
}

std::vector<Share> Choose(std::vector<Offer>& offers, DeviceKind device, int ranks) {
  const bool fits_one = std::any_of(offers.begin(), offers.end(),
                                    [&](const Offer& offer) { return offer.device == device && offer.total >= ranks; });
  return fits_one ? OnOneWorker(offers, device, ranks) : OverSeveral(offers, device, ranks);
}

}  // namespace

std::optional<DeviceKind> Scheduler::ResolveDevice(const WorkRow& row) const {
  const auto has = [&](DeviceKind device) SBORA_REQUIRES(mutex_) {
    int together = 0;
    for (const auto& [name, worker] : workers_) {
      if (!worker.Grantable()) continue;
      if (worker.SlotsOf(device) >= row.ranks) return true;
      if (!worker.gang_address.empty()) together += worker.SlotsOf(device);
    }
    return together >= row.ranks;
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
  struct Slots {
    int workers = 0;
    int cpu = 0;
    int cuda = 0;
  };
  Slots largest;
  Slots together;  // those a gang may be spread over
  for (const auto& [name, worker] : workers_) {
    if (!worker.Grantable()) continue;
    const int cpu = worker.SlotsOf(DeviceKind::kCpu);
    const int cuda = worker.SlotsOf(DeviceKind::kCuda);
    largest = {largest.workers + 1, std::max(largest.cpu, cpu), std::max(largest.cuda, cuda)};
    if (!worker.gang_address.empty()) together = {together.workers + 1, together.cpu + cpu, together.cuda + cuda};
  }
  const char* const device = row.device == DeviceKind::kAuto ? "CPU or CUDA" : row.device == DeviceKind::kCpu ? "CPU" : "CUDA";
  std::string gangs;
  if (row.ranks > 1) {
    gangs = fmt::format("; {} of them may share a gang (--gang-address), with {} CPU and {} CUDA slots together",
                        together.workers, together.cpu, together.cuda);
  }
  AddEvent(draft, work, 2, "NO_WORKER",
           fmt::format("waits for a worker with {} {} slot(s); {} ready worker(s) are connected, the largest with {} CPU and "
                       "{} CUDA slots{} (sbora-client workers list)",
                       row.ranks, device, largest.workers, largest.cpu, largest.cuda, gangs),
           draft.at.wall_ms);
}

void Scheduler::Dispatch(Draft& draft) {
  dispatch_due_ = false;
  std::vector<Offer> offers;
  for (auto& [name, worker] : workers_) {
    if (!worker.Grantable()) continue;
    for (const DeviceKind device : {DeviceKind::kCpu, DeviceKind::kCuda}) {
      const int total = worker.SlotsOf(device);
      if (total > 0) offers.push_back({&worker, device, static_cast<int>(worker.FreeSlots(device).size()), total});
    }
  }
  std::vector<std::pair<std::string, std::vector<Share>>> grants;
  std::map<std::pair<DeviceKind, int>, std::optional<DeviceKind>> resolved;  // by what the work asks for
  for (const auto& [key, uid] : waiting_.order()) {
    const bool any = std::any_of(offers.begin(), offers.end(), [](const Offer& o) { return !o.held && o.free > 0; });
    if (!any) break;
    const WorkRow& row = works_.at(uid).row;
    const auto [known, fresh] = resolved.try_emplace({row.device, row.ranks});
    if (fresh) known->second = ResolveDevice(row);
    if (!known->second) continue;  // nobody has such slots: it waits, and holds up nobody
    std::vector<Share> shares = Choose(offers, *known->second, row.ranks);
    for (const Share& share : shares) share.offer->free -= share.slots;
    if (!shares.empty()) grants.emplace_back(uid, std::move(shares));
  }
  for (const auto& [uid, shares] : grants) {
    std::vector<Part> parts;
    for (const Share& share : shares) {
      std::vector<std::string> slots = share.offer->worker->FreeSlots(share.offer->device);
      slots.resize(static_cast<size_t>(share.slots));
      parts.push_back({share.offer->worker, std::move(slots)});
    }
    Grant(draft, works_.at(uid), std::move(parts));
  }
}

void Scheduler::Grant(Draft& draft, WorkEntry& work, std::vector<Part> parts) {
  waiting_.Remove(work.row.uid);
  ++work.row.epoch;
  ++work.row.attempt;
  work.row.worker = parts.front().worker->row.name;
  work.row.resolved_device.clear();
  int32_t first_rank = 0;
  std::string where;
  for (Part& part : parts) {
    WorkerEntry& worker = *part.worker;
    const std::string uid = NewUuid7();
    LeaseEntry& lease = leases_[uid];
    lease.row = LeaseRow{.id = {.uid = uid, .epoch = work.row.epoch},
                         .work_uid = work.row.uid,
                         .worker = worker.row.name,
                         .instance_uuid = worker.row.instance_uuid,
                         .attempt = work.row.attempt,
                         .slots = std::move(part.slots),
                         .stop = StopReason::kNone,
                         .acknowledged_item = 0,
                         .start_checkpoint_step = work.row.checkpoint_step,
                         .running_ms = 0,
                         .first_rank = first_rank};
    lease.renewed = lease.counted = draft.at.now;
    for (const std::string& slot : lease.row.slots) worker.used[slot] = uid;
    worker.leases.insert(uid);
    work.leases[first_rank] = uid;
    first_rank += static_cast<int32_t>(lease.row.slots.size());
    where += (where.empty() ? "" : ", ") + worker.row.name;
    draft.touched_leases.insert(uid);
    draft.wake.insert(worker.row.name);
    deadlines_.Push(*LeaseDeadline(lease), Deadlines::Kind::kLease, uid);
  }
  ++totals_.granted_total;
  Apply(draft, work, core::JobEvent::kGranted,
        fmt::format("attempt {} on worker{} {}", work.row.attempt, parts.size() > 1 ? "s" : "", where));
}

}  // namespace sbora::server
