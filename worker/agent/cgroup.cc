#include "worker/agent/cgroup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <sstream>

#include "common/file.h"

namespace sbora::agent {
namespace fs = std::filesystem;
namespace {

/// Files of cgroupfs and procfs have no size: read to the end.
std::string ReadPseudoFile(const fs::path& path) {
  const std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

/// Candidate parents: v2's own group, then v1's memory group.
std::vector<fs::path> Parents(const fs::path& mount, const std::string& own) {
  std::vector<fs::path> parents;
  std::istringstream lines(own);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? std::string::npos : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    const std::string relative = path.starts_with('/') ? path.substr(1) : path;
    if (controllers.empty()) {
      for (const char* root : {"", "unified"}) {
        const fs::path candidate = mount / root / relative;
        if (fs::exists(candidate / "cgroup.controllers")) parents.push_back(candidate);
      }
    } else if (controllers == "memory") {
      parents.insert(parents.begin(), mount / "memory" / relative);  // v1 counts OOM kills there: prefer it
      parents.push_back(mount / "memory");  // inside a container the path is often the host's
    }
  }
  return parents;
}

}  // namespace

int64_t ParseOomKills(std::string_view text) {
  constexpr std::string_view kKey = "oom_kill ";
  for (size_t at = text.find(kKey); at != std::string_view::npos; at = text.find(kKey, at + 1)) {
    if (at != 0 && text[at - 1] != '\n') continue;  // oom_kill_disable, oom_group_kill
    int64_t value = 0;
    const char* begin = text.data() + at + kKey.size();
    const auto result = std::from_chars(begin, text.data() + text.size(), value);
    return result.ec == std::errc() ? value : 0;
  }
  return 0;
}

std::optional<Cgroup> Cgroup::Create(std::string_view name, const fs::path& mount, const fs::path& proc_self_cgroup) {
  for (const fs::path& parent : Parents(mount, ReadPseudoFile(proc_self_cgroup))) {
    const fs::path path = parent / fmt::format("sbora-{}", name);
    std::error_code error;
    fs::create_directory(path, error);
    if (error) continue;
    // A hierarchy that only looks writable (no cgroup.procs) is no use.
    if (::access((path / "cgroup.procs").c_str(), W_OK) == 0) return Cgroup(path);
    fs::remove(path, error);
  }
  return std::nullopt;
}

std::optional<Cgroup> Cgroup::Open(const fs::path& path) {
  std::error_code error;
  if (!path.filename().string().starts_with("sbora-") || !fs::is_regular_file(path / "cgroup.procs", error)) {
    return std::nullopt;
  }
  return Cgroup(path);
}

std::vector<int> Cgroup::Pids() const {
  std::vector<int> pids;
  std::istringstream text(ReadPseudoFile(procs_file()));
  for (int pid = 0; text >> pid;) {
    if (pid > 1) pids.push_back(pid);
  }
  return pids;
}

int64_t Cgroup::OomKills() const {
  for (const char* file : {"memory.events", "memory.oom_control"}) {
    std::error_code error;
    if (fs::exists(path_ / file, error)) return ParseOomKills(ReadPseudoFile(path_ / file));
  }
  return 0;
}

void Cgroup::KillAll() const {
  const UniqueFd fd(::open((path_ / "cgroup.kill").c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.valid() && ::write(fd.get(), "1", 1) == 1) return;
  // A member that ends between the list and the signal is a zombie of ours until we reap it: its number is not reused.
  for (const int pid : Pids()) ::kill(pid, SIGKILL);
}

void Cgroup::Remove() const {
  std::error_code error;
  fs::remove(path_, error);
}

}  // namespace sbora::agent
