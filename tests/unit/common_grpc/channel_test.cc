#include "common/grpc/channel.h"

#include <gtest/gtest.h>

namespace sbora {
namespace {

TEST(ChannelTest, KnowsLoopback) {
  for (const char* address : {"127.0.0.1:7400", "localhost:1", "[::1]:7400", "127.9.9.9:1", "unix:/tmp/x"}) {
    EXPECT_TRUE(IsLoopbackAddress(address)) << address;
  }
  for (const char* address : {"10.0.0.1:7400", "example.org:1", "[::2]:1", "127.example.org:1", "0.0.0.0:1", "[::"}) {
    EXPECT_FALSE(IsLoopbackAddress(address)) << address;
  }
}

TEST(ChannelTest, RefusesPlaintextToOthers) {
  EXPECT_EQ(CreateChannel("10.0.0.1:7400", {}).status().reason(), "INSECURE_ADDRESS");
}

TEST(ChannelTest, RefusesAddressWithoutPort) {
  for (const char* address : {"localhost", "localhost:", ":7400", ""}) {
    EXPECT_EQ(CreateChannel(address, {}).status().reason(), "BAD_ADDRESS") << address;
  }
}

TEST(ChannelTest, MissingFilesAreNamed) {
  EXPECT_EQ(CreateChannel("127.0.0.1:1", {.token_file = "/nowhere/token"}).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(CreateChannel("127.0.0.1:1", {.tls_ca = "/nowhere/ca"}).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace sbora
