/// What the scheduler holds in memory of each piece of work, lease and worker. Plain data, not locked; Scheduler's alone.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "server/scheduler/stop_policy.h"
#include "server/scheduler/types.h"

namespace sbora::server {

struct WorkEntry {
  WorkRow row;
  std::shared_ptr<const WorkPayload> payload;  // shared with offers under way and readers
  uint64_t place = 0;          // rises in the order of acceptance, kept until it ends
  MonotonicTime counted{};     // row.total_ms and row.queued_ms are as of this moment
  MonotonicTime not_before{};  // back-off, and the rest of a silent lease
  /// The leases of its gang that are not known to be over: first rank -> uid. Each is of another worker; the one at 0 leads.
  std::map<int32_t, std::string> leases;
  std::optional<AttemptEnd> end;  // what tells most of the parts that are over, none of them well, while others are left
  std::string rendezvous;         // as the leading lease reported it
  bool told_of_workers = false;  // this time in the queue: looked whether any worker could ever take it
  std::string progress;        // serialised JobProgress
  // The checkpoint before row.checkpoint_step; -1 and empty when there is none.
  int64_t older_checkpoint_step = -1;
  std::string older_checkpoint_files;
};

struct LeaseEntry {
  LeaseRow row;
  MonotonicTime renewed{};  // the lease ends `lease` after this unless renewed
  MonotonicTime counted{};  // row.running_ms is as of this moment
  bool reported = false;    // the agent has listed it
  int offers = 0;           // answers of this coordinator that carried it as new
  bool handed_out = false;  // an agent may know of it
  int64_t told_sequence = 0;  // of the newest answer that named it
  StopReason stop_told = StopReason::kNone;
  bool ready = false;  // its ranks may start, or have
  std::string rendezvous_told;
  // As of the newest commit; only this leaves the coordinator.
  bool published = false;
  StopReason published_stop = StopReason::kNone;
  int64_t published_item = 0;
};

struct WorkerEntry {
  WorkerRow row;
  std::vector<SlotInfo> slots;
  std::map<std::string, std::string> used;  // slot id -> lease uid
  std::set<std::string> leases;             // uids
  MonotonicTime seen{};
  bool agent_draining = false;
  bool unknown_gang = false;  // it still ends a gang that is not ours any more: nothing new until it is gone
  bool drain_told = false;
  std::string gang_address;  // empty: it takes no part in gangs over several workers
  int64_t sequence = 0;      // of the newest answer
  int64_t acknowledged = 0;  // newest the agent confirmed
  std::deque<std::string> former_instances;

  bool Grantable() const {
    return row.state == WorkerState::kReady && !agent_draining && !row.drain_asked && !unknown_gang;
  }
  std::vector<std::string> FreeSlots(DeviceKind device) const {
    std::vector<std::string> free;
    for (const SlotInfo& slot : slots) {
      if (slot.device == device && !used.contains(slot.id)) free.push_back(slot.id);
    }
    return free;
  }
  int SlotsOf(DeviceKind device) const {
    int count = 0;
    for (const SlotInfo& slot : slots) count += slot.device == device ? 1 : 0;
    return count;
  }
};

}  // namespace sbora::server
