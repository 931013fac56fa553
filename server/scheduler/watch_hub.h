/// Streams of what happens to one piece of work: replay from the store, then live, by one rising sequence.
///
/// A watcher holds at most kWatchQueue live items; one that falls behind ends with RESOURCE_EXHAUSTED WATCH_TOO_SLOW and
/// takes up again after the last sequence it saw. Nothing here blocks or slows the publisher.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "common/status.h"
#include "server/store/store.h"

namespace sbora::server {

inline constexpr size_t kWatchQueue = 256;

struct WatchItem {
  enum class Kind { kState, kEvent, kMetric, kProgress };
  Kind kind = Kind::kEvent;
  int64_t sequence = 0;             // of the newest thing up to here; kProgress: as given out by Next, the one before it
  std::optional<EventRow> event;    // kState (type STATE_CHANGED) and kEvent
  std::optional<MetricRow> metric;  // kMetric
  std::shared_ptr<const WorkRow> row;  // kState, live: the row right after the change; replayed: null, read the store
  std::string progress;             // kProgress: serialised JobProgress
};

class WatchHub;

/// One reader. Thread-safe; destroying it unsubscribes.
class Watcher {
 public:
  ~Watcher();
  /// The next item; nullopt when there is none yet (`wake` will be called); CANCELLED WATCH_ENDED after the last item of
  /// ended or deleted work; RESOURCE_EXHAUSTED WATCH_TOO_SLOW. Reads the store while replaying.
  StatusOr<std::optional<WatchItem>> Next();

 private:
  friend class WatchHub;
  struct Shared;
  Watcher(std::shared_ptr<Shared> shared, WatchHub* hub, const Store* store);
  StatusOr<bool> FillFromStore();

  const std::shared_ptr<Shared> shared_;  // the hub pushes into it while this object may be going away
  WatchHub* const hub_;
  const Store* const store_;
  std::deque<WatchItem> replay_;
  bool replaying_ = true;
};

/// Must outlive its watchers. Thread-safe.
class WatchHub {
 public:
  explicit WatchHub(const Store& store) : store_(store) {}

  /// Items with sequence > after_sequence. `wake` is called from the publisher's thread whenever Next may have more; it
  /// must not block and not call back into the watcher. NOT_FOUND when the work is not there.
  StatusOr<std::unique_ptr<Watcher>> Watch(std::string_view work_uid, int64_t after_sequence,
                                           std::function<void()> wake);

  /// After the commit, in order of sequence for each work.
  void Publish(const std::string& work_uid, std::vector<WatchItem> items, bool last);
  /// The work is gone, or memory was dropped and everybody must take up again (`status`).
  void End(const std::string& work_uid, Status status);
  void EndAll(Status status);

  size_t watchers() const;

 private:
  friend class Watcher;
  void Remove(const std::shared_ptr<Watcher::Shared>& shared);

  const Store& store_;
  mutable Mutex mutex_;
  std::multimap<std::string, std::shared_ptr<Watcher::Shared>> watchers_ SBORA_GUARDED_BY(mutex_);
};

}  // namespace sbora::server
