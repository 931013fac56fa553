/// Brings a connection's schema to the newest number. Private to server/store.
#pragma once

#include <span>

#include "server/store/migrations.h"
#include "server/store/sqlite_db.h"

namespace sbora::server {

StatusOr<int> ReadSchemaVersion(SqliteDb& db);
/// Runs each missing migration in a transaction of its own. FAILED_PRECONDITION STORE_TOO_NEW when the store has a
/// number that is not known here.
Status Migrate(SqliteDb& db, std::span<const Migration> migrations);

}  // namespace sbora::server
