// The check of a job's data in a child process: the real sbora-server in its hidden mode.
#include "server/services/isolated_check.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "common/file.h"
#include "sbora/worker/v1/task.pb.h"
#include "tests/unit/data/tiny_text_model.h"

namespace sbora::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kChat =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Q: the\"}, {\"role\": \"assistant\", \"content\": \"abc\"}]}\n";

class IsolatedCheckTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto directory = TempDirectory::Create(::testing::TempDir(), "check");
    ASSERT_TRUE(directory.ok());
    directory_ = std::make_unique<TempDirectory>(std::move(*directory));
    data::testing::WriteTinyTextModel(path());
    worker::v1::TrainTask train;
    v1::FineTuningSpec& spec = *train.mutable_spec();
    spec.set_model("base");
    spec.set_dataset("data");
    spec.mutable_data()->set_cutoff_tokens(256);
    spec.mutable_adapter()->set_rank(4);
    spec.mutable_training()->set_max_steps(2);
    train.set_dataset_format(v1::DATASET_FORMAT_CHAT);
    ASSERT_TRUE(WriteFileAtomic(path() / "request", train.SerializeAsString()).ok());
    ASSERT_TRUE(WriteFileAtomic(path() / "dataset.data", kChat).ok());
  }
  const std::filesystem::path& path() const { return directory_->path(); }
  void SetTemplate(const std::string& text) {
    const std::string config = nlohmann::json{{"eos_token", "<|im_end|>"}, {"chat_template", text}}.dump();
    ASSERT_TRUE(WriteFileAtomic(path() / "tokenizer_config.json", config).ok());
  }
  StatusOr<data::ValidationReport> Check(const std::function<bool()>& cancelled = [] { return false; }) {
    return CheckInChild(SBORA_SERVER_PROGRAM, path(), SystemClock(), std::chrono::minutes(5), {}, cancelled);
  }
  Status CheckWith(const std::filesystem::path& program) {
    return CheckInChild(program, path(), SystemClock(), std::chrono::minutes(1), {}, [] { return false; }).status();
  }
  /// Each record costs much work, and there are many: without a stop the check takes minutes.
  void MakeTheCheckSlow() {
    SetTemplate("{% for a in range(1000) %}{% for b in range(400) %}{% set c = b * a %}{% endfor %}{% endfor %}" +
                std::string(data::testing::kChatTemplate));
    std::string records;
    for (int i = 0; i < 100'000; ++i) records += kChat;
    ASSERT_TRUE(WriteFileAtomic(path() / "dataset.data", records).ok());
  }
  /// The process that was started with our folder.
  pid_t Child() const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      std::ifstream in(entry.path() / "cmdline");
      std::string arguments(std::istreambuf_iterator<char>(in), {});
      if (arguments.starts_with(SBORA_SERVER_PROGRAM) && arguments.find(path().string()) != std::string::npos) {
        return std::stoi(entry.path().filename());
      }
    }
    return -1;
  }
  /// False without a child: to kill(2), -1 is every process there is.
  bool SignalChild(int signal) const {
    const pid_t child = Child();
    return child > 0 && ::kill(child, signal) == 0;
  }

  std::unique_ptr<TempDirectory> directory_;
};

TEST_F(IsolatedCheckTest, GoodDataPassesAndBadDataIsNamed) {
  const auto good = Check();
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->train.samples, 1);
  EXPECT_THAT(good->example, ::testing::HasSubstr("[[abc")) << "what is supervised is marked";
  ASSERT_TRUE(WriteFileAtomic(path() / "dataset.data", "{\"messages\": 3}\n").ok());
  const Status bad = Check().status();
  EXPECT_EQ(bad.reason(), "INVALID_DATASET") << bad;
  EXPECT_FALSE(bad.violations().empty());
}

TEST_F(IsolatedCheckTest, ATemplateThatWantsAllMemoryEndsTheCheckOnly) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitized check has no memory limit";
#endif
  std::string text = "{% set ns = namespace(x='0123456789abcdef') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
  SetTemplate(text + data::testing::kChatTemplate);
  const Status died = Check().status();
  EXPECT_EQ(died.code(), StatusCode::kInvalidArgument) << died;
  EXPECT_EQ(died.reason(), "DATASET_CHECK_DIED") << died;
}

TEST_F(IsolatedCheckTest, ACheckIsCalledOff) {
  MakeTheCheckSlow();
  const Status status = Check([] { return true; }).status();
  EXPECT_EQ(status.code(), StatusCode::kCancelled) << status;
  EXPECT_EQ(status.reason(), "CHECK_CANCELLED") << status;
  EXPECT_EQ(Child(), -1);
}

TEST_F(IsolatedCheckTest, AKillFromOutsideIsNotTheDatasFault) {
  MakeTheCheckSlow();
  const Status killed = Check([this] { return !SignalChild(SIGKILL); }).status();
  EXPECT_EQ(killed.code(), StatusCode::kUnavailable) << killed;
  EXPECT_EQ(killed.reason(), "CHECK_KILLED") << killed;
}

TEST_F(IsolatedCheckTest, ASignalToStopTheServiceDoesNotReachTheChild) {
  MakeTheCheckSlow();
  int asked = 0;
  const Status status = Check([&] {
                          EXPECT_TRUE(SignalChild(SIGTERM));
                          return ++asked == 2;  // it lived on for a second
                        }).status();
  EXPECT_EQ(status.code(), StatusCode::kCancelled) << status;
}

TEST_F(IsolatedCheckTest, ACheckHasATimeLimit) {
  MakeTheCheckSlow();
  const Status late = CheckInChild(SBORA_SERVER_PROGRAM, path(), SystemClock(), std::chrono::milliseconds(300), {}, [] { return false; }).status();
  EXPECT_EQ(late.code(), StatusCode::kInvalidArgument) << late;
  EXPECT_EQ(late.reason(), "DATASET_CHECK_TOO_LONG") << late;
  EXPECT_EQ(Child(), -1);
}

TEST_F(IsolatedCheckTest, AMissingProgramIsTriedAgainLater) {
  const Status missing = CheckWith(path() / "none");
  EXPECT_EQ(missing.code(), StatusCode::kUnavailable) << missing;
  EXPECT_EQ(missing.reason(), "CHECK_NOT_STARTED") << missing;
  EXPECT_THAT(missing.message(), AllOf(HasSubstr((path() / "none").string()), HasSubstr("No such file or directory")));
}

TEST_F(IsolatedCheckTest, AProgramThatEndsWithoutAnAnswerIsTriedAgainLater) {
  for (const auto& [program, exit_code] : {std::pair("/bin/false", 1), std::pair("/bin/true", 0)}) {
    const Status silent = CheckWith(program);
    EXPECT_EQ(silent.code(), StatusCode::kUnavailable) << silent;
    EXPECT_EQ(silent.reason(), "CHECK_WITHOUT_ANSWER") << silent;
    EXPECT_THAT(silent.message(), HasSubstr(fmt::format("ended with exit code {} and no answer", exit_code)));
  }
}

/// What this process may be given of memory that counts against the limit of a check.
int64_t DataBytes() {
  std::ifstream in("/proc/self/statm");
  int64_t pages = 0;
  for (int field = 0; field < 6; ++field) in >> pages;
  return pages * ::sysconf(_SC_PAGESIZE);
}

TEST(CheckMemoryLimitTest, LeavesTheServerItsShareOfTheControlGroup) {
  EXPECT_EQ(CheckMemoryLimit("max\n"), uint64_t{4} << 30);
  EXPECT_EQ(CheckMemoryLimit("1073741824\n"), uint64_t{256} << 20);
  EXPECT_EQ(CheckMemoryLimit("68719476736\n"), uint64_t{4} << 30);
  EXPECT_EQ(CheckMemoryLimit(""), uint64_t{4} << 30);
}

TEST_F(IsolatedCheckTest, DataThatNeedMoreMemoryThanACheckHasAreRefused) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitized check has no memory limit";
#endif
  ASSERT_TRUE(WriteFileAtomic(path() / "request", std::string(48 << 20, '\0')).ok());
  const uint64_t limit = static_cast<uint64_t>(DataBytes()) + (8 << 20);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(RunCheckChild(path(), limit));
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  const auto result = nlohmann::json::parse(ReadFile(path() / "result", 1 << 20).value(), nullptr, false);
  EXPECT_EQ(result["code"], static_cast<int>(StatusCode::kInvalidArgument)) << result;
  EXPECT_EQ(result["reason"], "DATASET_CHECK_FAILED") << result;
  EXPECT_THAT(result["message"].get<std::string>(), AllOf(HasSubstr(fmt::format("than the {} bytes that a check has", limit)),
                                                          HasSubstr("use shorter records")));
}

}  // namespace
}  // namespace sbora::server
