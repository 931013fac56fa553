#include "server/store/sqlite_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <variant>

#include "common/failpoint.h"
#include "server/store/sqlite_impl.h"
#include "server/store/sqlite_migrate.h"
#include "server/store/sqlite_mutations.h"

namespace sbora::server {
namespace {

/// Names of file systems on which SQLite's locks and WAL do not hold; empty for all others.
std::string_view NetworkFileSystem(int64_t magic) {
  switch (magic) {
    case 0x6969: return "NFS";
    case 0x517B: return "SMB";
    case 0xFF534D42: return "CIFS";
    case 0xFE534D42: return "SMB2";
    case 0x00C36400: return "Ceph";
    case 0x5346414F: return "AFS";
    case 0x0BD00BD0: return "Lustre";
    default: return "";
  }
}

Status CheckFileSystem(const std::filesystem::path& folder) {
  struct statfs info {};
  if (statfs(folder.c_str(), &info) != 0) return FromErrno(errno, fmt::format("statfs {}", folder.string()));
  const std::string_view network = NetworkFileSystem(static_cast<int64_t>(info.f_type));
  if (network.empty()) return OkStatus();
  return FailedPrecondition("STORE_ON_NETWORK_FILE_SYSTEM",
                            fmt::format("{} is on {}, where SQLite cannot keep the store safe; put --data-dir on a "
                                        "local disk",
                                        folder.string(), network));
}

StatusOr<UniqueFd> LockStore(const std::filesystem::path& path) {
  const std::filesystem::path lock_path = path.string() + ".lock";
  UniqueFd fd(open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return FromErrno(errno, fmt::format("opening {}", lock_path.string()));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno != EWOULDBLOCK) return FromErrno(errno, fmt::format("locking {}", lock_path.string()));
  return FailedPrecondition("STORE_LOCKED", fmt::format("another server holds {}; stop it, or use another --data-dir",
                                                        lock_path.string()));
}

bool IsStoreError(const Status& status) {
  return status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kResourceExhausted ||
         status.code() == StatusCode::kDataLoss;
}

/// True when a work's result becomes a model or adapter here.
bool MakesResult(std::span<const WriteSet* const> batch) {
  return std::any_of(batch.begin(), batch.end(), [](const WriteSet* set) {
    return std::any_of(set->mutations.begin(), set->mutations.end(), [](const Mutation& mutation) {
      const auto* insert = std::get_if<InsertResource>(&mutation);
      return insert != nullptr && !insert->by_work.empty();
    });
  });
}

}  // namespace

StatusOr<std::unique_ptr<Store>> OpenSqliteStore(const SqliteOptions& options) {
  SBORA_RETURN_IF_ERROR(CheckFileSystem(options.path.parent_path()));
  SBORA_ASSIGN_OR_RETURN(UniqueFd lock, LockStore(options.path));
  SBORA_ASSIGN_OR_RETURN(SqliteDb writer, SqliteDb::Open(options.path, /*read_only=*/false));
  SBORA_RETURN_IF_ERROR(writer.Script("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"));
  SBORA_RETURN_IF_ERROR(Migrate(writer, Migrations()));
  std::vector<std::unique_ptr<SqliteDb>> readers;
  for (int i = 0; i < options.readers; ++i) {
    SBORA_ASSIGN_OR_RETURN(SqliteDb reader, SqliteDb::Open(options.path, /*read_only=*/true));
    readers.push_back(std::make_unique<SqliteDb>(std::move(reader)));
  }
  return std::unique_ptr<Store>(
      std::make_unique<SqliteStore>(std::move(lock), std::move(writer), std::move(readers)));
}

ReaderPool::Borrowed ReaderPool::Borrow() {
  MutexLock lock(mutex_);
  returned_.wait(lock, [this]() SBORA_REQUIRES(mutex_) { return !idle_.empty(); });
  std::unique_ptr<SqliteDb> db = std::move(idle_.back());
  idle_.pop_back();
  return Borrowed(*this, std::move(db));
}

void ReaderPool::Return(std::unique_ptr<SqliteDb> db) {
  MutexLock lock(mutex_);
  idle_.push_back(std::move(db));
  returned_.notify_one();
}

Status SqliteStore::ApplySet(const WriteSet& set, Status* result) {
  SBORA_RETURN_IF_ERROR(writer_.Run("SAVEPOINT one_set").status());
  for (const Mutation& mutation : set.mutations) {
    const Status applied = ApplyMutation(writer_, mutation);
    if (applied.ok()) continue;
    if (IsStoreError(applied)) return applied;
    if (!set.may_fail) return applied.WithContext("the scheduler's memory and the store have parted");
    *result = applied;
    SBORA_RETURN_IF_ERROR(writer_.Run("ROLLBACK TO one_set").status());
    break;
  }
  return writer_.Run("RELEASE one_set").status();
}

StatusOr<std::vector<Status>> SqliteStore::ApplyBatch(std::span<const WriteSet* const> batch) {
  std::vector<Status> results;
  for (const WriteSet* set : batch) {
    SBORA_RETURN_IF_ERROR(ApplySet(*set, &results.emplace_back()));
  }
  // An empty batch is a probe: it must touch the disk to be worth something.
  if (batch.empty()) {
    SBORA_RETURN_IF_ERROR(writer_.Run("UPDATE meta SET value = value + 1 WHERE key = 'writes_probed'").status());
  }
  return results;
}

StatusOr<std::vector<Status>> SqliteStore::Commit(std::span<const WriteSet* const> batch) {
  SBORA_RETURN_IF_ERROR(writer_.Run("BEGIN IMMEDIATE").status());
  StatusOr<std::vector<Status>> results = ApplyBatch(batch);
  if (results.ok()) {
    const bool makes_result = FailPointsOn() && MakesResult(batch);
    if (makes_result) FailPoint("store.before_commit");
    const Status committed = writer_.Run("COMMIT").status();
    if (makes_result) FailPoint("store.after_commit");
    if (committed.ok()) return results;
    results = committed;
  }
  writer_.Run("ROLLBACK").status().IgnoreError("SQLite may have rolled back by itself");
  return results;
}

}  // namespace sbora::server
