#include "client/error_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/exit_codes.h"

namespace sbora::client {
namespace {

using ::testing::HasSubstr;

TEST(ExitCodeOf, TableIsFixed) {
  const std::vector<std::pair<StatusCode, int>> table = {{StatusCode::kOk, 0},
                                                         {StatusCode::kInvalidArgument, 2},
                                                         {StatusCode::kOutOfRange, 2},
                                                         {StatusCode::kNotFound, 3},
                                                         {StatusCode::kAlreadyExists, 4},
                                                         {StatusCode::kFailedPrecondition, 4},
                                                         {StatusCode::kAborted, 4},
                                                         {StatusCode::kUnavailable, 5},
                                                         {StatusCode::kDeadlineExceeded, 5},
                                                         {StatusCode::kResourceExhausted, 5},
                                                         {StatusCode::kPermissionDenied, 6},
                                                         {StatusCode::kUnauthenticated, 6},
                                                         {StatusCode::kDataLoss, 7},
                                                         {StatusCode::kCancelled, 8},
                                                         {StatusCode::kUnimplemented, 9},
                                                         {StatusCode::kInternal, 10},
                                                         {StatusCode::kUnknown, 10}};
  ASSERT_EQ(table.size(), 17u);  // every canonical code
  for (const auto& [code, number] : table) {
    EXPECT_EQ(static_cast<int>(ExitCodeOf(code)), number) << StatusCodeName(code);
  }
}

TEST(FormatError, MessageReasonViolationsAndHint) {
  const Status status = InvalidArgument("INVALID_SPEC", "2 fields are wrong")
                            .WithViolation("fine_tuning_job.spec.adapter.rank", "must be at most 576")
                            .WithViolation("spec.training.epochs", "must be above 0");
  EXPECT_EQ(FormatError(status, {.server = "s:1", .command = "submit"}),
            "error: 2 fields are wrong [INVALID_SPEC]\n"
            "  spec.adapter.rank: must be at most 576\n"
            "  spec.training.epochs: must be above 0\n"
            "hint: sbora-client submit --help\n");
}

TEST(FormatError, UnreachableServerSaysHowToStartOne) {
  const std::string text =
      FormatError(Unavailable("GRPC_UNAVAILABLE", "connection refused"), {.server = "127.0.0.1:7400", .command = ""});
  EXPECT_THAT(text, HasSubstr("127.0.0.1:7400"));
  EXPECT_THAT(text, HasSubstr("sbora-server --with-worker"));
}

TEST(FormatError, EmptyHintLeavesNoLine) {
  EXPECT_EQ(FormatError(Unimplemented("X_Y", "not yet"), {}), "error: not yet [X_Y]\n");
}

}  // namespace
}  // namespace sbora::client
