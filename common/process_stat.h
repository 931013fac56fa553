/// What the kernel tells of a process of this machine (/proc/PID/stat).
#pragma once

#include <cstdint>
#include <optional>

namespace sbora {

struct ProcessStat {
  char state = '?';         ///< 'Z' for a zombie, 'X' for a dead one
  uint64_t start_time = 0;  ///< clock ticks since the machine's start: process numbers are used again, this is not
};

/// Nothing when there is no such process.
std::optional<ProcessStat> ReadProcessStat(int pid);

}  // namespace sbora
