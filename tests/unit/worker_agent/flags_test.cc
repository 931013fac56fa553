#include "worker/agent/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sbora::agent {
namespace {

using ::testing::HasSubstr;

std::variant<config::v1::WorkerConfig, ExitWith> Parse(std::vector<const char*> flags) {
  flags.insert(flags.begin(), "sbora-worker");
  return ParseFlags(static_cast<int>(flags.size()), flags.data());
}

TEST(FlagsTest, DefaultsAreFilledIn) {
  const auto parsed = Parse({"--trainer", "/bin/true", "--data-dir", "/data"});
  const auto* config = std::get_if<config::v1::WorkerConfig>(&parsed);
  ASSERT_NE(config, nullptr) << std::get<ExitWith>(parsed).text;
  EXPECT_EQ(config->server(), "127.0.0.1:7400");
  EXPECT_EQ(config->cpu_slots(), 1);
  EXPECT_EQ(config->drain_seconds(), 120);
  EXPECT_EQ(config->cache_bytes(), int64_t{50} << 30);
  EXPECT_EQ(config->http_listen(), "127.0.0.1:0");
}

TEST(FlagsTest, EveryFieldHasAFlag) {
  const auto parsed = Parse({"--help"});
  const std::string help = std::get<ExitWith>(parsed).text;
  const auto* descriptor = config::v1::WorkerConfig::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    std::string flag = "--" + descriptor->field(i)->name();
    std::replace(flag.begin(), flag.end(), '_', '-');
    EXPECT_THAT(help, HasSubstr(flag));
  }
}

TEST(FlagsTest, EachBadFlagIsNamed) {
  const auto parsed = Parse({"--trainer", "/nowhere", "--cpu-slots", "-1", "--server", "10.1.2.3:7400"});
  const auto& exit = std::get<ExitWith>(parsed);
  EXPECT_EQ(exit.code, 2);
  for (const char* flag : {"--trainer=/nowhere", "--cpu-slots=-1", "--server=10.1.2.3:7400"}) {
    EXPECT_THAT(exit.text, HasSubstr(flag));
  }
}

TEST(FlagsTest, EachBadFieldIsAViolation) {
  config::v1::WorkerConfig config;
  config.set_server("127.0.0.1:7400");
  config.set_name("Not A Label");
  config.set_trainer("/nowhere");
  config.set_drain_seconds(120);
  config.set_gang_address("http://node-1");
  const Status status = CheckConfig(config);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(status.reason(), "BAD_CONFIG");
  ASSERT_EQ(status.violations().size(), 3u);
  EXPECT_EQ(status.violations()[0].field, "name");
  EXPECT_EQ(status.violations()[1].field, "gang_address");
  EXPECT_EQ(status.violations()[2].field, "trainer");
  EXPECT_THAT(status.message(), HasSubstr("--gang-address=http://node-1: must be a host name or an address without a port"));
  EXPECT_THAT(status.message(), HasSubstr("--name=Not A Label: must be a lower-case label"));
}

TEST(WorkerNameTest, HostNamesBecomeLabels) {
  EXPECT_EQ(WorkerNameOf("Node_7.example.org"), "node-7");
  EXPECT_EQ(WorkerNameOf("7"), "worker-7");
  EXPECT_EQ(WorkerNameOf(""), "worker");
  EXPECT_EQ(WorkerNameOf(std::string(100, 'a')).size(), 63U);
}

}  // namespace
}  // namespace sbora::agent
