#include "common/metrics/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace sbora {
namespace {

prometheus::MetricFamily Family(const char* name, const char* help, prometheus::MetricType type, double value) {
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return {name, help, type, {std::move(metric)}};
}

/// Fields of /proc/self/stat behind the program's name, which may hold blanks; the first is field 3 of proc(5).
std::vector<double> StatFields() {
  std::ifstream in("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos || name_end + 4 > text.size()) return {};
  std::istringstream rest(text.substr(name_end + 4));  // behind the state letter, which is no number
  std::vector<double> fields = {0};
  for (double value = 0; rest >> value;) fields.push_back(value);
  return fields;
}

double BootSeconds() {
  std::ifstream in("/proc/stat");
  for (std::string word; in >> word;) {
    double seconds = 0;
    if (word == "btime" && in >> seconds) return seconds;
  }
  return 0;
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessMetrics() {
  using Type = prometheus::MetricType;
  std::vector<prometheus::MetricFamily> families;
  constexpr size_t kFirst = 3;  // number of the first field in proc(5)
  constexpr size_t kUserTicks = 14, kSystemTicks = 15, kStartTicks = 22, kVirtualBytes = 23, kResidentPages = 24;
  const std::vector<double> fields = StatFields();
  if (fields.size() > kResidentPages - kFirst) {
    const auto field = [&](size_t number) { return fields[number - kFirst]; };
    const auto ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
    const auto page = static_cast<double>(::sysconf(_SC_PAGESIZE));
    families.push_back(Family("process_cpu_seconds_total", "User and system CPU time spent.", Type::Counter,
                              (field(kUserTicks) + field(kSystemTicks)) / ticks));
    families.push_back(Family("process_resident_memory_bytes", "Resident memory.", Type::Gauge, field(kResidentPages) * page));
    families.push_back(Family("process_virtual_memory_bytes", "Virtual memory.", Type::Gauge, field(kVirtualBytes)));
    families.push_back(Family("process_start_time_seconds", "Start of the process since the Unix epoch.", Type::Gauge,
                              BootSeconds() + field(kStartTicks) / ticks));
  }
  std::error_code error;
  double descriptors = 0;
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end; it.increment(error)) ++descriptors;
  if (!error) families.push_back(Family("process_open_fds", "Open file descriptors.", Type::Gauge, descriptors));
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    families.push_back(Family("process_max_fds", "Most file descriptors that may be open.", Type::Gauge,
                              static_cast<double>(limit.rlim_cur)));
  }
  return families;
}

}  // namespace sbora
