#include "worker/trainer/dist/peer_process.h"

#include <fmt/format.h>
#include <unistd.h>

#include <sstream>

#include "common/process_stat.h"

namespace sbora::trainer {

StatusOr<PeerProcess> ThisProcess() {
  const int pid = ::getpid();
  const auto stat = ReadProcessStat(pid);
  if (!stat) return Internal("PEER_PROCESS", fmt::format("/proc/{}/stat cannot be read", pid));
  return PeerProcess{.pid = pid, .start_time = stat->start_time};
}

std::string ToText(const PeerProcess& process) { return fmt::format("{} {}", process.pid, process.start_time); }

StatusOr<PeerProcess> ParsePeerProcess(std::string_view text) {
  std::istringstream in{std::string(text)};
  PeerProcess process;
  if (in >> process.pid >> process.start_time && in.eof() && process.pid > 0) return process;
  return DataLoss("PEER_PROCESS", fmt::format("\"{}\" is no process number and start time", text));
}

bool HasEnded(const PeerProcess& process) {
  const auto stat = ReadProcessStat(process.pid);
  return !stat || stat->state == 'Z' || stat->state == 'X' || stat->start_time != process.start_time;
}

}  // namespace sbora::trainer
