/// Applies one Mutation inside an open transaction. Private to server/store.
#pragma once

#include "server/store/rows.h"
#include "server/store/sqlite_db.h"

namespace sbora::server {

/// Errors with code UNAVAILABLE, RESOURCE_EXHAUSTED, DATA_LOSS are the store's; all others are failed preconditions.
Status ApplyMutation(SqliteDb& db, const Mutation& mutation);

}  // namespace sbora::server
