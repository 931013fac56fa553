/// What every service gets. Borrowed pointers; the SboraServer that fills it outlives the services.
#pragma once

#include <filesystem>
#include <string>

#include "common/clock.h"
#include "common/storage/object_store.h"
#include "server/http/metrics.h"
#include "server/scheduler/coordinator.h"
#include "server/services/auth.h"
#include "server/services/upload_files.h"
#include "server/services/worker_pool.h"

namespace sbora::server {

class DatasetValidator;

struct ServiceContext {
  Coordinator* coordinator = nullptr;
  ObjectStore* objects = nullptr;
  const Clock* clock = nullptr;
  ServerMetrics* metrics = nullptr;
  Authenticator* authenticator = nullptr;
  WorkerPool* pool = nullptr;
  UploadFiles* uploads = nullptr;
  DatasetValidator* validator = nullptr;
  std::filesystem::path temp_directory;
  core::LeaseTiming timing;
  // For GetServerInfo.
  std::string version;
  std::string address;
  std::string http_address;
  std::string object_store_kind;
  WallTime start_time;

  const Store& store() const { return coordinator->store(); }
};

}  // namespace sbora::server
