// Settings: read, and refused before anything listens.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <optional>

#include "common/sha256.h"
#include "server/config.h"
#include "server/worker_process.h"
#include "tests/contract/server/contract_fixture.h"
#include "tests/testing/program.h"

namespace sbora::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class ConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto directory = TempDirectory::Create(::testing::TempDir(), "config");
    ASSERT_TRUE(directory.ok());
    directory_ = std::make_unique<TempDirectory>(std::move(*directory));
  }
  /// A file of that name with that text; its path.
  std::string File(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = directory_->path() / name;
    EXPECT_TRUE(WriteFileAtomic(path, text).ok());
    return path.string();
  }
  static StatusOr<ServerOptions> Parse(std::vector<std::string> flags) {
    flags.insert(flags.begin(), "sbora-server");
    std::vector<char*> argv;
    for (std::string& flag : flags) argv.push_back(flag.data());
    std::optional<int> exit_code;
    return ParseServerFlags(static_cast<int>(argv.size()), argv.data(), &exit_code);
  }
  /// Why a server with these further settings does not start.
  Status StartError(const std::function<void(config::v1::ServerConfig&)>& change) const {
    config::v1::ServerConfig config;
    config.set_listen("127.0.0.1:0");
    config.set_http_listen("127.0.0.1:0");
    config.set_data_dir((directory_->path() / "data").string());
    change(config);
    FillDefaults(config);
    return SboraServer::Start(config).status();
  }

  std::unique_ptr<TempDirectory> directory_;
};

::testing::AssertionResult Refuses(const Status& status, StatusCode code, const std::string& reason) {
  if (status.code() == code && status.reason() == reason) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << status << ", expected " << StatusCodeName(code) << " " << reason;
}

TEST_F(ConfigTest, AnOpenAddressNeedsTlsAndTokens) {
  config::v1::ServerConfig config;
  FillDefaults(config);
  EXPECT_TRUE(CheckConfig(config).ok());
  config.set_listen("0.0.0.0:7400");
  EXPECT_EQ(CheckConfig(config).reason(), "INSECURE_LISTEN");
  config.set_tls_certificate("a.pem");
  EXPECT_EQ(CheckConfig(config).reason(), "BAD_TLS");
  config.set_tls_key("a.key");
  EXPECT_EQ(CheckConfig(config).reason(), "INSECURE_LISTEN");
  config.set_token_file("tokens");
  EXPECT_TRUE(CheckConfig(config).ok());
  config.set_listen("nonsense");
  EXPECT_EQ(CheckConfig(config).reason(), "BAD_ADDRESS");
}

TEST_F(ConfigTest, FlagsWinOverTheFile) {
  const std::string file = File("server.yaml", "listen: 127.0.0.1:1\nlease_seconds: 6\nmax_attempts: 9\n");
  const auto options = Parse({"--config", file, "--listen", "127.0.0.1:2"});
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->config.listen(), "127.0.0.1:2");
  EXPECT_EQ(options->config.max_attempts(), 9);
  EXPECT_DOUBLE_EQ(options->config.lease_seconds(), 6);
  EXPECT_EQ(CheckConfig(options->config).reason(), "BAD_TIMING") << "a lease shorter than the self-fence";
  EXPECT_EQ(Parse({"--config", File("server.yaml", "lisen: x\n")}).status().reason(), "BAD_CONFIG_FILE");
}

TEST_F(ConfigTest, AFlagThatCannotBeReadIsNamedWithItsValue) {
  const struct {
    std::vector<std::string> flags;
    std::string message;
  } cases[] = {
      {{"--max-attempts", "many"}, "--max-attempts: \"many\" is not a whole number"},
      {{"--max-attempts", "9999999999"}, "--max-attempts: \"9999999999\" is not a whole number"},
      {{"--lease-seconds", "-1"}, "--lease-seconds: \"-1\" is not a number from 0 on"},
      {{"--lease-seconds", "inf"}, "--lease-seconds: \"inf\" is not a number from 0 on"},
      {{"--s3-allow-http", "perhaps"}, "--s3-allow-http: \"perhaps\" is not true or false"},
      {{"--lisen", "x"}, "--lisen"},
      {{"--lisen", "x"}, "see sbora-server --help"},
      {{"--with-worker", "--token-file", "tokens"}, "start sbora-worker with its own --token-file"},
      {{"--with-worker", "--tls-certificate", "a.pem"}, "start sbora-worker with its own --token-file"},
  };
  for (const auto& bad : cases) {
    const Status status = Parse(bad.flags).status();
    EXPECT_TRUE(Refuses(status, StatusCode::kInvalidArgument, "BAD_FLAG")) << bad.message;
    EXPECT_THAT(status.message(), HasSubstr(bad.message));
  }
  const std::string file = File("server.yaml", "max_attempts: many\n");
  const Status in_file = Parse({"--config", file}).status();
  EXPECT_TRUE(Refuses(in_file, StatusCode::kInvalidArgument, "BAD_FLAG"));
  EXPECT_THAT(in_file.message(), AllOf(HasSubstr(file), HasSubstr("\"many\" is not a whole number")));
}

TEST_F(ConfigTest, ALineOfTheCredentialsFileThatSaysNothingIsNamed) {
  config::v1::ServerConfig config;
  config.set_s3_credentials_file(File("s3", "# of the bucket\n\naccess_key_id=id\nsecret_access_key=a=b\nsession_token=t\n"));
  const auto good = ObjectStoreOptionsOf(config);
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->secret_access_key, "a=b");
  for (const char* line : {"access_key_id id", "secret_acces_key=secret"}) {
    config.set_s3_credentials_file(File("s3", fmt::format("access_key_id=id\n{}\n", line)));
    const Status bad = ObjectStoreOptionsOf(config).status();
    EXPECT_TRUE(Refuses(bad, StatusCode::kInvalidArgument, "BAD_CREDENTIALS_FILE"));
    EXPECT_THAT(bad.message(), AllOf(HasSubstr(config.s3_credentials_file() + ", line 2"), HasSubstr("secret_access_key=...")));
    EXPECT_THAT(bad.message(), ::testing::Not(HasSubstr(line))) << "a secret must not get into logs";
  }
}

TEST_F(ConfigTest, ATakenPortOrABadCertificateKeepsTheServerFromStarting) {
  config::v1::ServerConfig first_config;
  first_config.set_listen("127.0.0.1:0");
  first_config.set_http_listen("127.0.0.1:0");
  first_config.set_data_dir((directory_->path() / "first").string());
  FillDefaults(first_config);
  const auto first = SboraServer::Start(first_config);
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string taken_address = (*first)->address();
  const Status taken = StartError([&](config::v1::ServerConfig& config) { config.set_listen(taken_address); });
  EXPECT_TRUE(Refuses(taken, StatusCode::kUnavailable, "GRPC_LISTEN"));
  EXPECT_THAT(taken.message(), AllOf(HasSubstr("cannot listen on " + taken_address), HasSubstr("--listen 127.0.0.1:0 takes any free port")));
  const Status certificate = StartError([&](config::v1::ServerConfig& config) {
    config.set_tls_certificate(File("server.pem", "no certificate"));
    config.set_tls_key(File("server.key", "no key"));
  });
  EXPECT_TRUE(Refuses(certificate, StatusCode::kUnavailable, "GRPC_LISTEN"));
  EXPECT_THAT(certificate.message(), HasSubstr("certificate bad"));
}

TEST_F(ConfigTest, ATokenFileIsReadWholeOrNotAtAll) {
  const auto start = [&](const std::string& file) {
    return StartError([&](config::v1::ServerConfig& config) { config.set_token_file(file); });
  };
  const std::string good = "admin " + Sha256Hex("secret") + "\n";
  for (const std::string& line : {std::string("root ") + Sha256Hex("x"), std::string("admin secret"), "admin " + Sha256Hex("x") + " more",
                                  std::string("admin")}) {
    const std::string file = File("tokens", good + line + "\n");
    const Status bad = start(file);
    EXPECT_TRUE(Refuses(bad, StatusCode::kInvalidArgument, "BAD_TOKEN_FILE")) << line;
    EXPECT_THAT(bad.message(), AllOf(HasSubstr(file + ", line 2"), HasSubstr("64 lower-case hex")));
  }
  const std::string empty = File("tokens", "# nobody yet\n");
  const Status nobody = start(empty);
  EXPECT_TRUE(Refuses(nobody, StatusCode::kInvalidArgument, "BAD_TOKEN_FILE"));
  EXPECT_THAT(nobody.message(), HasSubstr(empty + " holds no token"));
  const std::string missing = (directory_->path() / "none").string();
  const Status unreadable = start(missing);
  EXPECT_TRUE(Refuses(unreadable, StatusCode::kNotFound, "TOKEN_FILE_UNREADABLE"));
  EXPECT_THAT(unreadable.message(), AllOf(HasSubstr("--token-file " + missing), HasSubstr("No such file")));
}

/// The program itself: its exit code, and the reason in its log.
TEST_F(ConfigTest, TheProgramTellsBadFlagsFromWhatIsMissing) {
  // In a folder of its own, where no sbora-worker is beside it.
  const std::filesystem::path program = directory_->path() / "sbora-server";
  std::error_code other_disk;
  std::filesystem::create_hard_link(SBORA_SERVER_PROGRAM, program, other_disk);
  if (other_disk) std::filesystem::copy_file(SBORA_SERVER_PROGRAM, program);
  const auto run = [&](const std::vector<std::string>& more, std::string* log) {
    std::vector<std::string> flags = {"--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                                      "--data-dir", (directory_->path() / "data").string(), "--with-worker"};
    flags.insert(flags.end(), more.begin(), more.end());
    const std::filesystem::path file = directory_->path() / "log";
    std::filesystem::remove(file);
    auto started = sbora::testing::Program::Start(program, flags, file);
    EXPECT_TRUE(started.ok()) << started.status();
    const auto code = started->WaitForExit(std::chrono::seconds(30));
    *log = ReadFile(file, 1 << 20).value();
    return code.ok() ? *code : -1;
  };
  std::string log;
  EXPECT_EQ(run({}, &log), 1) << log;
  EXPECT_THAT(log, AllOf(HasSubstr("WORKER_PROGRAM_MISSING"), HasSubstr((directory_->path() / "sbora-worker").string()),
                         HasSubstr("start sbora-worker yourself")));
  EXPECT_EQ(run({"--token-file", "tokens"}, &log), 2) << log;
  EXPECT_THAT(log, HasSubstr("BAD_FLAG"));
}

TEST_F(ConfigTest, AWorkerThatIsNoProgramIsNotStarted) {
  const std::string file = File("sbora-worker", "not executable");
  const Status missing = WorkerProcess::Start(file, {}).status();
  EXPECT_TRUE(Refuses(missing, StatusCode::kNotFound, "WORKER_PROGRAM_MISSING"));
  EXPECT_THAT(missing.message(), HasSubstr(file));
}

}  // namespace
}  // namespace sbora::server
