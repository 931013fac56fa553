#include "worker/trainer/link/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sbora::trainer {
namespace {

using ::testing::HasSubstr;

StatusOr<Flags> Parse(const std::vector<std::string>& arguments) { return Flags::Parse(arguments, {"model", "rank"}); }

TEST(TrainerFlagsTest, ValuesFollowOrAreJoined) {
  const auto flags = Parse({"--model", "/m=1", "--rank=8"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_EQ(flags->Text("model").value(), "/m=1");
  EXPECT_EQ(flags->Int("rank", 4, 1, 8).value(), 8);
  EXPECT_EQ(Parse({})->Int("rank", 4, 1, 8).value(), 4);
  EXPECT_EQ(Parse({})->Text("model", "none"), "none");
  EXPECT_EQ(Parse({"--rank=0.25"})->Number("rank", 0, 0, 1).value(), 0.25);
  EXPECT_EQ(Parse({})->Number("rank", 0.5, 0, 1).value(), 0.5);
  for (const char* bad : {"2", "-0.1", "nan", "0.1x", ""}) {
    EXPECT_EQ(Parse({std::string("--rank=") + bad})->Number("rank", 0, 0, 1).status().reason(), "FLAG_NOT_A_NUMBER") << bad;
  }
}

TEST(TrainerFlagsTest, WhatIsWrongIsNamed) {
  const auto text = [](const Flags& flags) { return flags.Text("model").status(); };
  const auto number = [](const Flags& flags) { return flags.Int("rank", 4, 1, 8).status(); };
  struct Case {
    std::vector<std::string> arguments;
    std::function<Status(const Flags&)> read;  // what is asked of flags that parse
    const char* reason;
    const char* message;
  };
  const Case cases[] = {
      {{"--ranks", "8"}, {}, "FLAG_UNKNOWN", "unknown flag \"--ranks\"; known: --model, --rank"},
      {{"8"}, {}, "FLAG_UNKNOWN", "unknown flag \"8\"; known: --model, --rank"},
      {{"--model=m", "--rank"}, {}, "FLAG_VALUE_MISSING", "--rank needs a value: --rank VALUE or --rank=VALUE"},
      {{"--rank", "8", "--rank=4"}, {}, "FLAG_REPEATED", "--rank is given twice, as \"8\" and \"4\"; give it once"},
      {{"--rank", "8"}, text, "FLAG_MISSING", "--model is required: give --model=VALUE"},
      {{"--rank", "eight"}, number, "FLAG_NOT_A_NUMBER", "--rank=eight is no whole number from 1 to 8"},
      {{"--rank", "4.5"}, number, "FLAG_NOT_A_NUMBER", "--rank=4.5 is no whole number from 1 to 8"},
      {{"--rank="}, number, "FLAG_NOT_A_NUMBER", "--rank= is no whole number from 1 to 8"},
      {{"--rank=0"}, number, "FLAG_NOT_A_NUMBER", "--rank=0 is no whole number from 1 to 8"},
      {{"--rank=9"}, number, "FLAG_NOT_A_NUMBER", "--rank=9 is no whole number from 1 to 8"},
  };
  for (const auto& [arguments, read, reason, message] : cases) {
    SCOPED_TRACE(message);
    const auto flags = Parse(arguments);
    ASSERT_EQ(flags.ok(), static_cast<bool>(read)) << flags.status();
    const Status status = read ? read(*flags) : flags.status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(status.reason(), reason);
    EXPECT_EQ(status.message(), message);
  }
}

}  // namespace
}  // namespace sbora::trainer
