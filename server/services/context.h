/// What every service gets. Borrowed pointers; the SboraServer that fills it outlives the services.
#pragma once

#include <atomic>
#include <filesystem>
#include <string>

#include "common/clock.h"
#include "common/mutex.h"
#include "common/storage/object_store.h"
#include "server/http/metrics.h"
#include "server/scheduler/coordinator.h"
#include "server/services/auth.h"
#include "server/services/upload_files.h"
#include "server/services/worker_pool.h"

namespace sbora::server {

class DatasetValidator;

/// A text that becomes known while calls may already ask for it. Thread-safe.
class Published {
 public:
  Published() = default;
  /// What is known now.
  Published(const Published& other) : text_(other.Get()) {}

  void Set(std::string text) {
    MutexLock lock(mutex_);
    text_ = std::move(text);
  }
  std::string Get() const {
    MutexLock lock(mutex_);
    return text_;
  }

 private:
  mutable Mutex mutex_;
  std::string text_ SBORA_GUARDED_BY(mutex_);
};

struct ServiceContext {
  Coordinator* coordinator = nullptr;
  ObjectStore* objects = nullptr;
  const Clock* clock = nullptr;
  ServerMetrics* metrics = nullptr;
  Authenticator* authenticator = nullptr;
  WorkerPool* pool = nullptr;           ///< heartbeats of agents and watch streams: nothing slow
  WorkerPool* transfer_pool = nullptr;  ///< bytes: a slow disk or object store must not hold up heartbeats
  std::atomic<int>* waiting_calls = nullptr;  ///< calls that hold a thread until work ends (WaitForWork)
  UploadFiles* uploads = nullptr;
  DatasetValidator* validator = nullptr;
  std::filesystem::path temp_directory;
  /// Started with kCheckFlag to check a job's data; empty: in this process, for tests with data of their own.
  std::filesystem::path check_program;
  Duration check_limit = std::chrono::hours(1);  ///< longest check of one job's data
  core::LeaseTiming timing;
  // For GetServerInfo.
  std::string version;
  Published address;
  Published http_address;
  std::string object_store_kind;
  WallTime start_time;

  const Store& store() const { return coordinator->store(); }
};

}  // namespace sbora::server
