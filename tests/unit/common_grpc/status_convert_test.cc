#include "common/grpc/status_convert.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sbora {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

TEST(StatusConvertTest, EveryDetailSurvivesTheWay) {
  const Status status = InvalidArgument("RANK_TOO_LARGE", "adapter.rank=1000 exceeds 576")
                            .WithMetadata("rank", "1000")
                            .WithViolation("spec.adapter.rank", "must be at most 576");
  const Status back = FromGrpc(ToGrpc(status));
  EXPECT_EQ(back.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(back.reason(), "RANK_TOO_LARGE");
  EXPECT_EQ(back.message(), status.message());
  EXPECT_EQ(back.metadata(), status.metadata());
  ASSERT_THAT(back.violations(), SizeIs(1));
  EXPECT_EQ(back.violations()[0].field, "spec.adapter.rank");
  EXPECT_EQ(back.violations()[0].description, "must be at most 576");
}

TEST(StatusConvertTest, WireHoldsErrorInfoOfOurDomain) {
  google::rpc::Status wire;
  ASSERT_TRUE(wire.ParseFromString(ToGrpc(NotFound("MODEL_NOT_FOUND", "no model x")).error_details()));
  ASSERT_EQ(wire.details_size(), 1);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(wire.details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "sbora.dev");
  EXPECT_EQ(info.reason(), "MODEL_NOT_FOUND");
  EXPECT_EQ(wire.code(), 5);
}

TEST(StatusConvertTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpc(OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

TEST(StatusConvertTest, ForeignErrorsGetAReasonFromTheirCode) {
  const Status status = FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection refused"));
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(status.reason(), "GRPC_UNAVAILABLE");
}

TEST(StatusConvertTest, ForeignDetailsThatAreNoneAreIgnored) {
  const Status status = FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, "x", "\xff\xff no protobuf"));
  EXPECT_EQ(status.reason(), "GRPC_INTERNAL");
}

TEST(StatusConvertTest, BadUtf8BecomesText) {
  const std::string message = FromGrpc(ToGrpc(InvalidArgument("BAD", "a\xff\xc3(\xed\xa0\x80 \xc3\xa9"))).message();
  EXPECT_EQ(message, "a\?\?(\?\?\? \xc3\xa9");
}

TEST(StatusConvertTest, ManyViolationsStayUnderTheMetadataLimit) {
  Status status = InvalidArgument("BAD_SPEC", std::string(10'000, '\xc3'));
  for (int i = 0; i < 200; ++i) status = status.WithViolation("field" + std::to_string(i), std::string(100, 'x'));
  const grpc::Status wire = ToGrpc(status);
  EXPECT_LT(wire.error_message().size() * 3 + wire.error_details().size(), 8192U);
  const Status back = FromGrpc(wire);
  EXPECT_GT(back.violations().size(), 5U);
  ASSERT_THAT(back.metadata(), SizeIs(1));
  EXPECT_EQ(back.metadata()[0].first, "violations_omitted");
  EXPECT_EQ(std::stoul(back.metadata()[0].second) + back.violations().size(), 200U);
}

TEST(StatusConvertTest, LongTextIsCutAtACharacter) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "\xe2\x82\xac";
  const std::string message = ToGrpc(Internal("LONG", text)).error_message();
  EXPECT_LE(message.size(), 1200U);
  EXPECT_THAT(message, ::testing::EndsWith("\xe2\x82\xac..."));
}

TEST(StatusConvertTest, FailureKeepsCodeReasonMessage) {
  const Status back = FromFailure(ToFailure(ResourceExhausted("OOM_HOST", "no memory")));
  EXPECT_EQ(back.ToString(), ResourceExhausted("OOM_HOST", "no memory").ToString());
  EXPECT_TRUE(FromFailure(v1::Failure()).ok());
  v1::Failure strange;
  strange.set_code(99);
  EXPECT_EQ(FromFailure(strange).code(), StatusCode::kUnknown);
}

}  // namespace
}  // namespace sbora
