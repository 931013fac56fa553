/// A thin owner of one SQLite connection and its prepared statements. Private to server/store.
///
///     Rows rows = db.Query("SELECT uid, version FROM works WHERE project = ?", project);
///     while (rows.Next()) use(rows.Text(0), rows.Int(1));
///     SBORA_RETURN_IF_ERROR(rows.status());
///
/// Statements are prepared once per SQL text, so texts must be literals or come from a small set. A Rows must be gone
/// before the same text is used again. Threading: one thread at a time.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"
#include "common/status_macros.h"

namespace sbora::server {

/// The result of one statement; resets it when it goes.
class Rows {
 public:
  Rows(sqlite3* db, sqlite3_stmt* statement, Status status);
  Rows(Rows&& other) noexcept;
  ~Rows();

  /// False at the end or on an error (see status).
  bool Next();
  const Status& status() const { return status_; }

  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  int Int32(int column) const { return sqlite3_column_int(statement_, column); }
  double Real(int column) const { return sqlite3_column_double(statement_, column); }
  bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  /// Text or blob.
  std::string Text(int column) const;

 private:
  sqlite3* db_;
  sqlite3_stmt* statement_;
  Status status_;
};

/// A value bound as a blob; plain strings are bound as text.
struct Blob {
  std::string_view bytes;
};

class SqliteDb {
 public:
  static StatusOr<SqliteDb> Open(const std::filesystem::path& path, bool read_only);
  SqliteDb(SqliteDb&& other) noexcept;
  SqliteDb& operator=(SqliteDb&&) = delete;
  ~SqliteDb();

  template <typename... Args>
  Rows Query(std::string_view sql, const Args&... args) {
    sqlite3_stmt* statement = nullptr;
    Status status = Prepare(sql, &statement);
    int index = 0;
    if (status.ok()) (Bind(statement, ++index, args), ...);
    return Rows(db_, statement, std::move(status));
  }

  /// Runs to the end; the number of rows changed.
  template <typename... Args>
  StatusOr<int> Run(std::string_view sql, const Args&... args) {
    Rows rows = Query(sql, args...);
    while (rows.Next()) {
    }
    if (!rows.status().ok()) return rows.status();
    return sqlite3_changes(db_);
  }

  /// Several statements without arguments.
  Status Script(const std::string& sql);

 private:
  explicit SqliteDb(sqlite3* db) : db_(db) {}
  Status Prepare(std::string_view sql, sqlite3_stmt** statement);

  static void Bind(sqlite3_stmt* statement, int index, std::string_view text);
  static void Bind(sqlite3_stmt* statement, int index, const std::string& text) {
    Bind(statement, index, std::string_view(text));
  }
  static void Bind(sqlite3_stmt* statement, int index, Blob blob);
  static void Bind(sqlite3_stmt* statement, int index, int64_t value) { sqlite3_bind_int64(statement, index, value); }
  static void Bind(sqlite3_stmt* statement, int index, int value) { sqlite3_bind_int64(statement, index, value); }
  static void Bind(sqlite3_stmt* statement, int index, std::optional<double> value);

  sqlite3* db_;
  std::map<std::string, sqlite3_stmt*, std::less<>> statements_;
};

/// SQLite's code as ours: full disk RESOURCE_EXHAUSTED NO_SPACE, corruption DATA_LOSS STORE_CORRUPT, else UNAVAILABLE
/// STORE_UNAVAILABLE.
Status SqliteError(sqlite3* db, std::string_view what);

}  // namespace sbora::server
