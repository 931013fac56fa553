/// Work that waits for slots: higher priority first, then by place, so that what comes back is not behind what came later.
/// Not locked.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace sbora::server {

class WorkQueue {
 public:
  /// Higher priority, then lower place, comes first. Places are unique.
  struct Key {
    int32_t priority = 0;
    uint64_t place = 0;
    bool operator<(const Key& other) const {
      return priority != other.priority ? priority > other.priority : place < other.place;
    }
  };

  /// No effect when it is there.
  void Add(const std::string& work_uid, int32_t priority, uint64_t place) {
    if (keys_.contains(work_uid)) return;
    const Key key{priority, place};
    keys_.emplace(work_uid, key);
    order_.emplace(key, work_uid);
  }
  void Remove(const std::string& work_uid) {
    const auto found = keys_.find(work_uid);
    if (found == keys_.end()) return;
    order_.erase(found->second);
    keys_.erase(found);
  }
  const std::map<Key, std::string>& order() const { return order_; }
  bool Contains(const std::string& work_uid) const { return keys_.contains(work_uid); }
  size_t size() const { return order_.size(); }

 private:
  std::map<std::string, Key> keys_;
  std::map<Key, std::string> order_;
};

}  // namespace sbora::server
