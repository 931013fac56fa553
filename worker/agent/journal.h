/// What a restarted agent must clean up: one journal.json in each attempt's folder, written before and after its ranks
/// start. Nothing is taken up again: the coordinator sees a new instance and gives the work out anew.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/status.h"

namespace sbora::agent {

struct JournalRank {
  int pid = 0;  // leader of its process group
  uint64_t start_time = 0;
};

struct Journal {
  std::string lease_uid;
  int64_t epoch = 0;
  std::string resource;
  int attempt = 0;
  /// Of the machine's boot: pids of another boot mean nothing.
  std::string boot_id;
  std::string cgroup;  // empty for none
  std::vector<JournalRank> ranks;
};

Status WriteJournal(const std::filesystem::path& attempt_folder, const Journal& journal);
/// DataLoss BAD_JOURNAL when the file is not one of ours.
StatusOr<Journal> ReadJournal(const std::filesystem::path& attempt_folder);

/// Ends every process that the attempts below `attempts` left behind and removes their folders. A process is ended only
/// if its recorded start time fits or it carries the attempt's mark in its environment (kLeaseVariable), so a reused pid
/// is never hit. Returns how many attempts were found. Errors: a folder cannot be removed.
StatusOr<int> CleanUpAttempts(const std::filesystem::path& attempts);

/// Environment variable of each rank, with the lease's uid.
inline constexpr const char* kLeaseVariable = "SBORA_LEASE";

std::string BootId();

}  // namespace sbora::agent
