#include "server/store/sqlite_migrate.h"

#include <fmt/format.h>

namespace sbora::server {

StatusOr<int> ReadSchemaVersion(SqliteDb& db) {
  Rows rows = db.Query("SELECT coalesce(max(version), 0) FROM schema_version");
  const int version = rows.Next() ? rows.Int32(0) : 0;
  if (!rows.status().ok()) return rows.status();
  return version;
}

Status Migrate(SqliteDb& db, std::span<const Migration> migrations) {
  SBORA_RETURN_IF_ERROR(db.Script(
      "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;"));
  SBORA_ASSIGN_OR_RETURN(const int present, ReadSchemaVersion(db));
  const int known = static_cast<int>(migrations.size());
  if (present > known) {
    return FailedPrecondition("STORE_TOO_NEW",
                              fmt::format("the store has schema {}, this program knows up to {}; run the newer "
                                          "program, or restore a backup made before the upgrade",
                                          present, known));
  }
  for (int version = present + 1; version <= known; ++version) {
    const Migration& migration = migrations[static_cast<size_t>(version - 1)];
    const Status done = db.Script(fmt::format("BEGIN IMMEDIATE;\n{}\nINSERT INTO schema_version VALUES ({}, '{}');\nCOMMIT;",
                                              migration.sql, version, migration.name));
    if (!done.ok()) {
      db.Script("ROLLBACK").IgnoreError("the script may have failed before BEGIN");
      return done.WithContext(fmt::format("migration {}", migration.name));
    }
  }
  return OkStatus();
}

}  // namespace sbora::server
