#include "common/metrics/process_metrics.h"

#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <map>
#include <string>

namespace sbora {
namespace {

TEST(ProcessMetrics, TellsOfThisProcess) {
  std::map<std::string, double> values;
  for (const auto& family : ProcessMetrics()) {
    ASSERT_EQ(family.metric.size(), 1u);
    const bool counter = family.type == prometheus::MetricType::Counter;
    values[family.name] = counter ? family.metric[0].counter.value : family.metric[0].gauge.value;
  }
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_GT(values.at("process_resident_memory_bytes"), 1 << 20);
  EXPECT_GT(values.at("process_virtual_memory_bytes"), values.at("process_resident_memory_bytes"));
  EXPECT_GE(values.at("process_cpu_seconds_total"), 0.0);
  EXPECT_LT(values.at("process_cpu_seconds_total"), 60.0);
  EXPECT_LE(values.at("process_start_time_seconds"), now + 1);
  EXPECT_GT(values.at("process_start_time_seconds"), now - 3600);
  const double before = values.at("process_open_fds");
  EXPECT_GE(values.at("process_max_fds"), before);
  const std::ifstream file("/proc/self/stat");
  for (const auto& family : ProcessMetrics()) {
    if (family.name == "process_open_fds") {
      EXPECT_EQ(family.metric[0].gauge.value, before + 1);
    }
  }
}

}  // namespace
}  // namespace sbora
