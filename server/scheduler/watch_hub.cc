#include "server/scheduler/watch_hub.h"

#include <fmt/format.h>

#include <utility>

#include "common/status_macros.h"

namespace sbora::server {
namespace {

constexpr int kReplayPage = 128;

Status Ended() { return Cancelled("WATCH_ENDED", "the work has ended"); }

}  // namespace

struct Watcher::Shared {
  Mutex mutex;
  std::string work_uid;
  std::function<void()> wake SBORA_GUARDED_BY(mutex);  // empty once the watcher is gone
  std::deque<WatchItem> live SBORA_GUARDED_BY(mutex);
  bool replaying SBORA_GUARDED_BY(mutex) = true;
  bool read_again SBORA_GUARDED_BY(mutex) = false;  // live items were dropped while replaying
  Status end SBORA_GUARDED_BY(mutex);               // not OK: nothing follows the queue
  int64_t last = 0;                                 // newest sequence given out; the watcher's alone
};

Watcher::Watcher(std::shared_ptr<Shared> shared, WatchHub* hub, const Store* store)
    : shared_(std::move(shared)), hub_(hub), store_(store) {}

Watcher::~Watcher() {
  {
    MutexLock lock(shared_->mutex);
    shared_->wake = nullptr;
  }
  hub_->Remove(shared_);
}

StatusOr<bool> Watcher::FillFromStore() {
  SBORA_ASSIGN_OR_RETURN(std::vector<StreamItem> items,
                         store_->ListStream(shared_->work_uid, shared_->last, kReplayPage));
  for (StreamItem& stored : items) {
    WatchItem item;
    item.sequence = stored.sequence;
    item.kind = stored.metric                                ? WatchItem::Kind::kMetric
                : stored.event->type == "STATE_CHANGED" ? WatchItem::Kind::kState
                                                             : WatchItem::Kind::kEvent;
    item.event = std::move(stored.event);
    item.metric = std::move(stored.metric);
    replay_.push_back(std::move(item));
  }
  return !items.empty();
}

StatusOr<std::optional<WatchItem>> Watcher::Next() {
  while (replaying_) {
    if (!replay_.empty()) {
      std::optional<WatchItem> item = std::move(replay_.front());
      replay_.pop_front();
      shared_->last = item->sequence;
      return item;
    }
    {
      MutexLock lock(shared_->mutex);
      shared_->read_again = false;
    }
    SBORA_ASSIGN_OR_RETURN(const bool more, FillFromStore());
    if (more) continue;
    // Whatever was committed after that read is, or will be, in the live queue, unless the queue overflowed.
    MutexLock lock(shared_->mutex);
    if (shared_->read_again) continue;
    shared_->replaying = replaying_ = false;
  }
  MutexLock lock(shared_->mutex);
  while (!shared_->live.empty()) {
    std::optional<WatchItem> item = std::move(shared_->live.front());
    shared_->live.pop_front();
    if (item->kind == WatchItem::Kind::kProgress) {
      item->sequence = shared_->last;  // the replay may have passed the number it was queued with
      return item;
    }
    if (item->sequence <= shared_->last) continue;  // replayed already
    shared_->last = item->sequence;
    return item;
  }
  if (!shared_->end.ok()) return shared_->end;
  return std::optional<WatchItem>();
}

StatusOr<std::unique_ptr<Watcher>> WatchHub::Watch(std::string_view work_uid, int64_t after_sequence,
                                                   std::function<void()> wake) {
  // shared: the publisher may be pushing while the watcher goes away.
  auto shared = std::make_shared<Watcher::Shared>();
  shared->work_uid = std::string(work_uid);
  shared->last = after_sequence;
  {
    MutexLock lock(shared->mutex);
    shared->wake = std::move(wake);
  }
  {
    MutexLock lock(mutex_);
    watchers_.emplace(shared->work_uid, shared);
  }
  std::unique_ptr<Watcher> watcher(new Watcher(shared, this, &store_));  // private constructor
  // Read after subscribing: what ends later is published to us, what has ended is in the store.
  SBORA_ASSIGN_OR_RETURN(const Work work, store_.GetWorkByUid(work_uid));
  if (core::IsTerminal(work.row.state)) {
    MutexLock lock(shared->mutex);
    shared->end = Ended();
  }
  return watcher;
}

void WatchHub::Publish(const std::string& work_uid, std::vector<WatchItem> items, bool last) {
  MutexLock lock(mutex_);
  const auto [begin, end] = watchers_.equal_range(work_uid);
  for (auto watcher = begin; watcher != end; ++watcher) {
    Watcher::Shared& shared = *watcher->second;
    MutexLock shared_lock(shared.mutex);
    if (!shared.end.ok()) continue;
    for (const WatchItem& item : items) {
      if (shared.live.size() < kWatchQueue) {
        shared.live.push_back(item);
      } else if (shared.replaying) {
        shared.live.clear();  // the store has them all
        shared.read_again = true;
      } else {
        shared.live.clear();
        shared.end = ResourceExhausted(
            "WATCH_TOO_SLOW", fmt::format("the reader fell behind by {} events; watch again after the last sequence seen",
                                          kWatchQueue));
        break;
      }
    }
    if (last && shared.end.ok()) shared.end = Ended();
    if (shared.wake) shared.wake();
  }
}

void WatchHub::End(const std::string& work_uid, Status status) {
  MutexLock lock(mutex_);
  const auto [begin, end] = watchers_.equal_range(work_uid);
  for (auto watcher = begin; watcher != end; ++watcher) {
    MutexLock shared_lock(watcher->second->mutex);
    if (watcher->second->end.ok()) watcher->second->end = status;
    if (watcher->second->wake) watcher->second->wake();
  }
}

void WatchHub::EndAll(Status status) {
  MutexLock lock(mutex_);
  for (const auto& [uid, shared] : watchers_) {
    MutexLock shared_lock(shared->mutex);
    if (shared->end.ok()) shared->end = status;
    if (shared->wake) shared->wake();
  }
}

size_t WatchHub::watchers() const {
  MutexLock lock(mutex_);
  return watchers_.size();
}

void WatchHub::Remove(const std::shared_ptr<Watcher::Shared>& shared) {
  MutexLock lock(mutex_);
  const auto [begin, end] = watchers_.equal_range(shared->work_uid);
  for (auto watcher = begin; watcher != end; ++watcher) {
    if (watcher->second == shared) {
      watchers_.erase(watcher);
      return;
    }
  }
}

}  // namespace sbora::server
