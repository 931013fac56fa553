#include "worker/trainer/dist/peer_process.h"

#include <fmt/format.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <sstream>

namespace sbora::trainer {
namespace {

struct Stat {
  char state = '?';
  uint64_t start_time = 0;
};

std::optional<Stat> ReadStat(int pid) {
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string text;
  if (!std::getline(in, text)) return std::nullopt;
  // The name is in parentheses and may hold any character: fields are counted behind it, from 3 (state) to 22.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  Stat stat;
  fields >> stat.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  if (!(fields >> stat.start_time)) return std::nullopt;
  return stat;
}

}  // namespace

StatusOr<PeerProcess> ThisProcess() {
  const int pid = ::getpid();
  const auto stat = ReadStat(pid);
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
  const auto stat = ReadStat(process.pid);
  return !stat || stat->state == 'Z' || stat->state == 'X' || stat->start_time != process.start_time;
}

}  // namespace sbora::trainer
