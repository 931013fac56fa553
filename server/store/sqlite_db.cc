#include "server/store/sqlite_db.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

namespace sbora::server {

Status SqliteError(sqlite3* db, std::string_view what) {
  const int code = sqlite3_errcode(db);
  const std::string message = fmt::format("{}: {} (SQLite {})", what, sqlite3_errmsg(db), sqlite3_extended_errcode(db));
  switch (code & 0xff) {
    case SQLITE_FULL:
      return ResourceExhausted("NO_SPACE", message + "; free space on the disk of the data folder");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return DataLoss("STORE_CORRUPT", message + "; restore the store from a backup");
    case SQLITE_CONSTRAINT:
      // What a caller may run into is checked before, with a reason of its own: this is a fault of ours, of one write only.
      return Internal("STORE_CONSTRAINT", message);
    default:
      return Unavailable("STORE_UNAVAILABLE", message);
  }
}

Rows::Rows(sqlite3* db, sqlite3_stmt* statement, Status status)
    : db_(db), statement_(statement), status_(std::move(status)) {}

Rows::Rows(Rows&& other) noexcept
    : db_(other.db_), statement_(std::exchange(other.statement_, nullptr)), status_(std::move(other.status_)) {}

Rows::~Rows() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

bool Rows::Next() {
  if (!status_.ok()) return false;
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code != SQLITE_DONE) status_ = SqliteError(db_, sqlite3_sql(statement_));
  return false;
}

std::string Rows::Text(int column) const {
  const void* data = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return data == nullptr ? std::string() : std::string(static_cast<const char*>(data), static_cast<size_t>(size));
}

StatusOr<SqliteDb> SqliteDb::Open(const std::filesystem::path& path, bool read_only) {
  sqlite3* handle = nullptr;
  const int flags = (read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE) |
                    SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  const int code = sqlite3_open_v2(path.c_str(), &handle, flags, nullptr);
  SqliteDb db(handle);
  if (code != SQLITE_OK) return SqliteError(handle, fmt::format("opening {}", path.string()));
  sqlite3_busy_timeout(handle, 5000);
  SBORA_RETURN_IF_ERROR(db.Script("PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF;"));
  return db;
}

SqliteDb::SqliteDb(SqliteDb&& other) noexcept
    : db_(std::exchange(other.db_, nullptr)), statements_(std::exchange(other.statements_, {})) {}

SqliteDb::~SqliteDb() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(db_);
}

Status SqliteDb::Script(const std::string& sql) {
  if (sqlite3_exec(db_, sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) {
    return SqliteError(db_, sql.substr(0, 120));
  }
  return OkStatus();
}

Status SqliteDb::Prepare(std::string_view sql, sqlite3_stmt** statement) {
  const auto found = statements_.find(sql);
  if (found != statements_.end()) {
    *statement = found->second;
    return OkStatus();
  }
  if (sqlite3_prepare_v3(db_, sql.data(), static_cast<int>(sql.size()), SQLITE_PREPARE_PERSISTENT, statement,
                         nullptr) != SQLITE_OK) {
    return SqliteError(db_, sql);
  }
  statements_.emplace(std::string(sql), *statement);
  return OkStatus();
}

// Bound memory outlives the step: Query's arguments live in the caller's full expression or row, but a Rows may outlive
// them, hence the copy.
void SqliteDb::Bind(sqlite3_stmt* statement, int index, std::string_view text) {
  sqlite3_bind_text64(statement, index, text.data() == nullptr ? "" : text.data(), text.size(), SQLITE_TRANSIENT,
                      SQLITE_UTF8);
}

void SqliteDb::Bind(sqlite3_stmt* statement, int index, Blob blob) {
  sqlite3_bind_blob64(statement, index, blob.bytes.data() == nullptr ? "" : blob.bytes.data(), blob.bytes.size(),
                      SQLITE_TRANSIENT);
}

void SqliteDb::Bind(sqlite3_stmt* statement, int index, std::optional<double> value) {
  if (value) {
    sqlite3_bind_double(statement, index, *value);
  } else {
    sqlite3_bind_null(statement, index);
  }
}

}  // namespace sbora::server
