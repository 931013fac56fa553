#include "common/process_stat.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>
#include <string>

namespace sbora {

std::optional<ProcessStat> ReadProcessStat(int pid) {
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string text;
  if (!std::getline(in, text)) return std::nullopt;
  // The name is in parentheses and may hold any character: fields are counted behind it, from 3 (state) to 22.
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  std::istringstream fields(text.substr(name_end + 1));
  ProcessStat stat;
  fields >> stat.state;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  if (!(fields >> stat.start_time)) return std::nullopt;
  return stat;
}

}  // namespace sbora
