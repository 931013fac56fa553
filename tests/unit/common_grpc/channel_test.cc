#include "common/grpc/channel.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "common/clock.h"
#include "common/file.h"
#include "sbora/v1/admin.grpc.pb.h"

namespace sbora {
namespace {

class InfoService : public v1::AdminService::Service {
  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*, v1::ServerInfo* info) override {
    info->set_version("late");
    return grpc::Status::OK;
  }
};

/// A port of 127.0.0.1 that takes connections but says nothing until they are accepted; -1 if there is none.
int ListenOnLoopback(sockaddr_in& address) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  const bool ok = ::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 && ::listen(fd, 4) == 0 &&
                  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  return ok ? fd : -1;
}

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

TEST(ChannelTest, ATokenFileHoldsOneWordOnItsFirstLine) {
  const auto directory = TempDirectory::Create(::testing::TempDir(), "channel");
  ASSERT_TRUE(directory.ok()) << directory.status();
  const std::filesystem::path file = directory->path() / "token";
  for (const std::string text : {"", "\nsecret\n", "  \t\r\n", "ges\xc3\xa4\n", "a\x01" "b"}) {
    ASSERT_TRUE(WriteFileAtomic(file, text).ok());
    const Status bad = CreateChannel("127.0.0.1:1", {.token_file = file}).status();
    EXPECT_EQ(bad.code(), StatusCode::kInvalidArgument) << bad;
    EXPECT_EQ(bad.reason(), "BAD_TOKEN_FILE") << bad;
    EXPECT_NE(bad.message().find(file.string() + " must hold the token as its first line"), std::string::npos) << bad;
  }
  ASSERT_TRUE(WriteFileAtomic(file, "secret\nand a remark\n").ok());
  EXPECT_TRUE(CreateChannel("127.0.0.1:1", {.token_file = file}).ok());
}

// The server's machine is busy, or far away: a connection that takes a second to come up is none that failed.
TEST(ChannelTest, WaitsForAServerThatIsSlowToAnswer) {
  sockaddr_in address;
  const int listener = ListenOnLoopback(address);
  ASSERT_GE(listener, 0);
  InfoService service;
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  std::jthread late([&] {
    SystemClock().SleepUntil(SystemClock().Now() + std::chrono::seconds(1), {});
    const int connection = ::accept(listener, nullptr, nullptr);
    ::fcntl(connection, F_SETFL, ::fcntl(connection, F_GETFL) | O_NONBLOCK);
    grpc::AddInsecureChannelFromFd(server.get(), connection);
  });
  const auto channel = CreateChannel(fmt::format("127.0.0.1:{}", ntohs(address.sin_port)), {});
  ASSERT_TRUE(channel.ok()) << channel.status().message();
  const auto stub = v1::AdminService::NewStub(*channel);
  grpc::ClientContext context;
  SetDeadline(context, std::chrono::seconds(30));
  v1::ServerInfo info;
  const grpc::Status status = stub->GetServerInfo(&context, {}, &info);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(info.version(), "late");
  late.join();
  server->Shutdown();
  ::close(listener);
}

}  // namespace
}  // namespace sbora
