#include "worker/agent/journal.h"

#include <fmt/format.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/clock.h"
#include "common/file.h"
#include "common/ids.h"
#include "common/logging.h"
#include "common/process_stat.h"
#include "common/status_macros.h"
#include "worker/agent/cgroup.h"
#include "worker/agent/process.h"

namespace sbora::agent {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxJournalBytes = 1024 * 1024;
constexpr const char* kJournalFile = "journal.json";

template <typename T>
T Field(const nlohmann::json& json, const char* name, T fallback) {
  const auto found = json.find(name);
  if (found == json.end()) return fallback;
  if constexpr (std::is_same_v<T, std::string>) {
    return found->is_string() ? found->template get<std::string>() : fallback;
  } else {
    return found->is_number_integer() ? found->template get<T>() : fallback;
  }
}

/// Only of the recorded process itself: pid and start time name it for the life of the machine's boot.
void KillRecorded(const JournalRank& rank) {
  const UniqueFd pidfd(OpenPidfd(rank.pid));
  const std::optional<ProcessStat> stat = ReadProcessStat(rank.pid);
  if (!pidfd.valid() || rank.start_time == 0 || !stat || stat->start_time != rank.start_time) return;
  // It lives, so the group number is its own.
  ::kill(-rank.pid, SIGKILL);
  SendPidfdSignal(pidfd.get(), SIGKILL);
}

void KillLeftovers(const Journal& journal) {
  if (journal.boot_id == BootId()) {
    for (const JournalRank& rank : journal.ranks) {
      if (rank.pid > 1) KillRecorded(rank);
    }
  }
  if (const auto cgroup = Cgroup::Open(journal.cgroup); cgroup) {
    for (int round = 0; round < 200 && !cgroup->Pids().empty(); ++round) {
      cgroup->KillAll();
      SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(5), {});
    }
    cgroup->Remove();
  }
}

}  // namespace

Status WriteJournal(const fs::path& attempt_folder, const Journal& journal) {
  nlohmann::json ranks = nlohmann::json::array();
  for (const JournalRank& rank : journal.ranks) ranks.push_back({{"pid", rank.pid}, {"startTime", rank.start_time}});
  const nlohmann::json json = {{"leaseUid", journal.lease_uid}, {"epoch", journal.epoch},
                               {"resource", journal.resource},  {"attempt", journal.attempt},
                               {"bootId", journal.boot_id},     {"cgroup", journal.cgroup},
                               {"ranks", std::move(ranks)}};
  return WriteFileAtomic(attempt_folder / kJournalFile,
                         json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

StatusOr<Journal> ReadJournal(const fs::path& attempt_folder) {
  SBORA_ASSIGN_OR_RETURN(const std::string text, ReadFile(attempt_folder / kJournalFile, kMaxJournalBytes));
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) {
    return DataLoss("BAD_JOURNAL", fmt::format("{} holds no JSON object", (attempt_folder / kJournalFile).string()));
  }
  Journal journal{.lease_uid = Field<std::string>(json, "leaseUid", ""),
                  .epoch = Field<int64_t>(json, "epoch", 0),
                  .resource = Field<std::string>(json, "resource", ""),
                  .attempt = Field<int>(json, "attempt", 0),
                  .boot_id = Field<std::string>(json, "bootId", ""),
                  .cgroup = Field<std::string>(json, "cgroup", ""),
                  .ranks = {}};
  const auto ranks = json.find("ranks");
  if (ranks != json.end() && ranks->is_array()) {
    for (const auto& rank : *ranks) {
      if (!rank.is_object()) continue;
      journal.ranks.push_back({.pid = Field<int>(rank, "pid", 0), .start_time = Field<uint64_t>(rank, "startTime", 0)});
    }
  }
  return journal;
}

StatusOr<int> CleanUpAttempts(const fs::path& attempts) {
  std::error_code error;
  fs::create_directories(attempts, error);
  if (error) return FromErrno(error.value(), fmt::format("making {}", attempts.string()));
  int found = 0;
  for (const auto& item : fs::directory_iterator(attempts, error)) {
    ++found;
    const std::string uid = item.path().filename().string();
    const auto journal = ReadJournal(item.path());
    if (journal.ok()) KillLeftovers(*journal);
    // Also what left its group, and ranks started just before the journal could tell.
    const std::string mark = fmt::format("{}={}", kLeaseVariable, uid);
    for (int round = 0; IsUuid(uid) && round < 200 && KillByEnvironment(mark) > 0; ++round) {
      SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(5), {});
    }
    LogWarn("cleaned up after an attempt of an earlier run; it is lost and resumes from its checkpoint",
            {{"job", journal.ok() ? journal->resource : uid}, {"attempt", journal.ok() ? journal->attempt : 0},
             {"epoch", journal.ok() ? journal->epoch : int64_t{0}}});
    std::error_code removal;
    fs::remove_all(item.path(), removal);
    if (removal) return FromErrno(removal.value(), fmt::format("removing {}", item.path().string()));
  }
  if (error) return FromErrno(error.value(), fmt::format("reading {}", attempts.string()));
  return found;
}

std::string BootId() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(in, id);
  return id;
}

}  // namespace sbora::agent
