#include "server/scheduler/commit_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "common/status_macros.h"

namespace sbora::server {

void CommitQueue::Push(Transition transition) {
  MutexLock lock(mutex_);
  pending_.push_back(std::move(transition));
  pushed_.notify_one();
}

std::vector<Transition> CommitQueue::Take(size_t limit) {
  MutexLock lock(mutex_);
  return TakeLocked(limit);
}

std::vector<Transition> CommitQueue::WaitAndTake(size_t limit, const std::stop_token& stop) {
  MutexLock lock(mutex_);
  pushed_.wait(lock, stop, [this]() SBORA_REQUIRES(mutex_) { return !pending_.empty(); });
  return TakeLocked(limit);
}

std::vector<Transition> CommitQueue::TakeLocked(size_t limit) {
  const auto end = pending_.begin() + static_cast<std::ptrdiff_t>(std::min(limit, pending_.size()));
  std::vector<Transition> batch(std::make_move_iterator(pending_.begin()), std::make_move_iterator(end));
  pending_.erase(pending_.begin(), end);
  return batch;
}

StatusOr<std::vector<Status>> CommitBatch(Store& store, const std::vector<Transition>& batch) {
  std::vector<const WriteSet*> sets;
  for (const Transition& transition : batch) {
    if (!transition.writes.mutations.empty()) sets.push_back(&transition.writes);
  }
  std::vector<Status> written;
  if (!sets.empty()) {
    SBORA_ASSIGN_OR_RETURN(written, store.Commit(sets));
  }
  std::vector<Status> results;
  auto next = written.begin();
  for (const Transition& transition : batch) {
    results.push_back(transition.writes.mutations.empty() ? OkStatus() : std::move(*next++));
  }
  return results;
}

}  // namespace sbora::server
