/// The one FIFO between decisions and the world. The scheduler pushes under its lock, so the order here is the order of
/// its decisions; one store thread commits batches, and only then calls what waits for them.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "server/scheduler/watch_hub.h"
#include "server/store/store.h"

namespace sbora::server {

/// What watchers of one piece of work are told once the change is durable.
struct Publication {
  std::string work_uid;
  std::vector<WatchItem> items;
  bool last = false;  // the work has ended: nothing follows
};

/// A decision with all that depends on it.
struct Transition {
  WriteSet writes;  // may be empty: then this is a barrier behind earlier ones
  std::vector<Publication> publish;
  uint64_t ticket = 0;                      // the scheduler's number, for Scheduler::Committed; 0: none
  std::function<void(const Status&)> done;  // may be empty; called without locks on the store thread
};

class CommitQueue {
 public:
  /// Never blocks.
  void Push(Transition transition);
  /// Everything pending, at most `limit`, in order. Does not wait.
  std::vector<Transition> Take(size_t limit);
  /// Like Take, but waits for something to come; empty once `stop` is requested and nothing is pending.
  std::vector<Transition> WaitAndTake(size_t limit, const std::stop_token& stop);

 private:
  std::vector<Transition> TakeLocked(size_t limit) SBORA_REQUIRES(mutex_);

  Mutex mutex_;
  std::condition_variable_any pushed_;
  std::deque<Transition> pending_ SBORA_GUARDED_BY(mutex_);
};

/// One transaction for the batch: a status for each, or the error of the whole.
StatusOr<std::vector<Status>> CommitBatch(Store& store, const std::vector<Transition>& batch);

}  // namespace sbora::server
