#include "worker/agent/http_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sbora::agent {
namespace {

using ::testing::HasSubstr;

StatusOr<std::unique_ptr<HttpStatus>> Listen(const std::string& address) {
  return HttpStatus::Start({.listen = address, .metrics = [] { return "x 1\n"; }, .alive = [] { return true; }});
}

TEST(HttpStatusTest, AnAddressThatIsTakenIsNamed) {
  auto first = Listen("127.0.0.1:0");
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string address = (*first)->address();
  const Status second = Listen(address).status();
  EXPECT_EQ(second.code(), StatusCode::kUnavailable);
  EXPECT_EQ(second.reason(), "ADDRESS_IN_USE");
  EXPECT_THAT(second.message(), HasSubstr("--http-listen " + address));
  first->reset();
  EXPECT_TRUE(Listen(address).ok()) << "a worker that starts again takes the port it had";
}

TEST(HttpStatusTest, AnAddressMustBeHostAndPort) {
  for (const char* address : {"127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1", "7402"}) {
    const Status status = Listen(address).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << address;
    EXPECT_EQ(status.reason(), "BAD_ADDRESS") << address;
    EXPECT_THAT(status.message(), HasSubstr(address));
  }
}

}  // namespace
}  // namespace sbora::agent
