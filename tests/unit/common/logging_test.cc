#include "common/logging.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

namespace sbora {
namespace {

/// The lines that `body` logs, each parsed: a line that is no JSON fails the test.
template <typename Body>
std::vector<nlohmann::json> LinesOf(const Body& body) {
  ::testing::internal::CaptureStderr();
  body();
  std::istringstream text(::testing::internal::GetCapturedStderr());
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line, nullptr, false));
  for (const auto& line : lines) EXPECT_FALSE(line.is_discarded());
  return lines;
}

TEST(LoggingTest, ALineIsAnObjectWithTypedFields) {
  InitLogging("tester");
  const auto lines = LinesOf([] {
    LogWarn("two\nlines and \"quotes\", a bad byte \xff",
            {{"job", "projects/p/fineTuningJobs/j"}, {"attempt", 2}, {"epoch", int64_t{7}}, {"share", 0.5}, {"last", true}});
    LogDebug("not shown by default");
  });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["level"], "warn");
  EXPECT_EQ(lines[0]["program"], "tester");
  EXPECT_NE(lines[0]["message"].get<std::string>().find("two\nlines and \"quotes\""), std::string::npos);
  EXPECT_EQ(lines[0]["job"], "projects/p/fineTuningJobs/j");
  EXPECT_EQ(lines[0]["attempt"], 2);
  EXPECT_EQ(lines[0]["epoch"], 7);
  EXPECT_EQ(lines[0]["share"], 0.5);
  EXPECT_EQ(lines[0]["last"], true);
  const std::string time = lines[0]["time"];
  EXPECT_EQ(time.size(), std::string("2026-11-24T08:39:52.358Z").size());
  EXPECT_TRUE(time.ends_with('Z'));
}

TEST(LoggingTest, AScopeGivesItsFieldsToEveryLineOfItsThread) {
  InitLogging("tester");
  const auto lines = LinesOf([] {
    const LogScope attempt({{"job", "j"}, {"attempt", 1}, {"epoch", 3}});
    LogInfo("plain");
    {
      const LogScope inner({{"attempt", 2}});
      LogInfo("nested", {{"epoch", 4}});
    }
    LogInfo("after");
    std::jthread([] { LogInfo("elsewhere"); }).join();
  });
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["job"], "j");
  EXPECT_EQ(lines[0]["attempt"], 1);
  EXPECT_EQ(lines[0]["epoch"], 3);
  EXPECT_EQ(lines[1]["job"], "j");
  EXPECT_EQ(lines[1]["attempt"], 2) << "the inner scope's";
  EXPECT_EQ(lines[1]["epoch"], 4) << "the line's own";
  EXPECT_EQ(lines[2]["attempt"], 1);
  EXPECT_FALSE(lines[3].contains("job")) << "another thread's";
}

}  // namespace
}  // namespace sbora
