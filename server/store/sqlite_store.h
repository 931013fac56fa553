/// Store in one SQLite file: WAL, synchronous FULL, foreign keys. The file is locked against a second server and refused
/// on network file systems, where neither locks nor WAL hold.
#pragma once

#include <filesystem>
#include <memory>

#include "server/store/store.h"

namespace sbora::server {

struct SqliteOptions {
  std::filesystem::path path;  // its folder must exist
  int readers = 4;             // read-only connections
};

/// Opens or makes the file and migrates it to the newest schema. Errors: FAILED_PRECONDITION STORE_LOCKED (another
/// server has it; the message names the lock file), STORE_ON_NETWORK_FILE_SYSTEM, STORE_TOO_NEW (made by a newer
/// program); DATA_LOSS STORE_CORRUPT; UNAVAILABLE.
StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const SqliteOptions& options);

}  // namespace sbora::server
