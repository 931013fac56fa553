/// A heap of "look at this again at that time". Entries may be stale: whoever pops one asks for the real deadline and
/// pushes it again, so that a deadline which moves later on every renewal costs nothing. Not locked.
#pragma once

#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"

namespace sbora::server {

class Deadlines {
 public:
  enum class Kind { kWork, kLease, kWorker };
  struct Entry {
    MonotonicTime time;
    Kind kind = Kind::kWork;
    std::string key;
    bool operator>(const Entry& other) const { return time > other.time; }
  };

  void Push(MonotonicTime time, Kind kind, std::string key) { heap_.push({time, kind, std::move(key)}); }
  bool Due(MonotonicTime now) const { return !heap_.empty() && heap_.top().time <= now; }
  Entry Pop() {
    Entry entry = heap_.top();
    heap_.pop();
    return entry;
  }
  MonotonicTime Next() const { return heap_.empty() ? MonotonicTime::max() : heap_.top().time; }

 private:
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> heap_;
};

}  // namespace sbora::server
