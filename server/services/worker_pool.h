/// A few threads that run short tasks in order of arrival: where callback handlers put work that may block.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "common/mutex.h"

namespace sbora::server {

/// Thread-safe. The destructor finishes what is queued, then joins.
class WorkerPool {
 public:
  WorkerPool(std::string name, int threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  void Submit(std::function<void()> task);

 private:
  void Run();

  const std::string name_;
  Mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::function<void()>> tasks_ SBORA_GUARDED_BY(mutex_);
  bool stopping_ SBORA_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace sbora::server
