/// Whether another process of this machine still runs. For naming the rank that a failed sum waited for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status.h"

namespace sbora::trainer {

/// Names a process for as long as the machine is up: numbers are used again, start times are not.
struct PeerProcess {
  int pid = 0;
  uint64_t start_time = 0;  ///< clock ticks since the machine's start

  bool operator==(const PeerProcess&) const = default;
};

/// Errors: INTERNAL PEER_PROCESS without a readable /proc.
StatusOr<PeerProcess> ThisProcess();

/// "pid start_time", and back. Errors: DATA_LOSS PEER_PROCESS.
std::string ToText(const PeerProcess& process);
StatusOr<PeerProcess> ParsePeerProcess(std::string_view text);

/// Gone, or a zombie that nobody has waited for.
bool HasEnded(const PeerProcess& process);

}  // namespace sbora::trainer
