#include "common/storage/object_store.h"

#include <sys/resource.h>

#include <csignal>

#include "common/storage/counting_object_store.h"
#include "common/storage/memory_object_store.h"
#include "tests/unit/common_storage/object_store_contract.h"

namespace sbora {
namespace {

using ::testing::HasSubstr;

StatusOr<std::unique_ptr<ObjectStore>> OpenUrl(const std::string& url) {
  ObjectStoreOptions options;
  options.url = url;
  return OpenObjectStore(options);
}

std::string FileUrl(const std::filesystem::path& scratch) { return "file://" + (scratch / "deep/store").string(); }

INSTANTIATE_TEST_SUITE_P(
    Stores, ObjectStoreContract,
    ::testing::Values(StoreCase{"memory", [](const auto&) { return OpenUrl("memory://"); }},
                      StoreCase{"directory", [](const auto& scratch) { return OpenUrl(FileUrl(scratch)); }},
                      StoreCase{"counted",
                                [](const auto&) -> StatusOr<std::unique_ptr<ObjectStore>> {
                                  return std::unique_ptr<ObjectStore>(
                                      new CountingObjectStore(std::make_unique<MemoryObjectStore>()));
                                }}),
    [](const auto& info) { return info.param.name; });

TEST(ObjectKeyTest, AllowsOursAndNothingElse) {
  for (const std::string& key : {std::string("a"), std::string("a/b/c.d_e-f=g"), std::string("..."), std::string(".x"),
                                 std::string(200, 'k'), std::string("0198c0de-0000-7000-8000-000000000000/x")}) {
    EXPECT_TRUE(CheckObjectKey(key).ok()) << key;
  }
  for (const std::string& key :
       {std::string(""), std::string("/"), std::string("a/"), std::string("/a"), std::string("a//b"), std::string("."),
        std::string("a/.."), std::string("../a"), std::string("a b"), std::string("a\\b"), std::string("a%2e"),
        std::string("a#1"), std::string("a\0b", 3), std::string("\xc3\xa9"), std::string(201, 'k'), std::string("a:b")}) {
    const Status status = CheckObjectKey(key);
    EXPECT_EQ(status.reason(), "OBJECT_KEY_INVALID") << key;
  }
  std::string longest = std::string(180, 'a');
  for (int i = 0; i < 4; ++i) longest += "/" + std::string(179, 'a');
  EXPECT_TRUE(CheckObjectKey(longest).ok());
  EXPECT_FALSE(CheckObjectKey(longest + "a").ok());
  EXPECT_TRUE(CheckObjectPrefix("").ok());
}

TEST(OpenObjectStoreTest, RefusesBadUrlsAndOptions) {
  for (const char* url : {"", "file://relative", "file:///a?b", "/plain", "http://x", "s3://", "s3://ab", "s3://Bucket",
                          "s3://bucket/../x", "memory://x"}) {
    EXPECT_EQ(OpenUrl(url).status().reason(), "STORE_URL_INVALID") << url;
  }
  ObjectStoreOptions options;
  options.url = "s3://bucket";
  options.access_key_id = "id";
  EXPECT_EQ(OpenObjectStore(options).status().reason(), "STORE_CONFIG_INVALID");
  options.secret_access_key = "secret";
  options.endpoint = "http://127.0.0.1:1";
  EXPECT_THAT(OpenObjectStore(options).status().message(), HasSubstr("allow_http"));
  options.allow_http = true;
  options.ca_pem = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
  EXPECT_EQ(OpenObjectStore(options).status().reason(), "STORE_CONFIG_INVALID");
  options.ca_pem.clear();
  options.connect_timeout = std::chrono::milliseconds(0);
  EXPECT_EQ(OpenObjectStore(options).status().reason(), "STORE_CONFIG_INVALID");
}

TEST(OpenObjectStoreTest, UnreachableServerIsUnavailableAndSecretsStayOut) {
  ObjectStoreOptions options;
  options.url = "s3://bucket";
  options.endpoint = "http://127.0.0.1:1";  // nobody listens on port 1
  options.allow_http = true;
  options.access_key_id = "id";
  options.secret_access_key = "very-secret-key";
  options.max_retries = 0;
  auto store = OpenObjectStore(options);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto result = (*store)->Get("k", 1);
  EXPECT_EQ(result.status().reason(), "STORE_UNAVAILABLE") << result.status();
  EXPECT_EQ(result.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(result.status().message(), ::testing::Not(HasSubstr("very-secret")));
}

TEST(OpenObjectStoreTest, PresignsWithoutAServer) {
  ObjectStoreOptions options;
  options.url = "s3://bucket/pre/fix";
  options.endpoint = "https://s3.example.org";
  options.access_key_id = "id";
  options.secret_access_key = "very-secret-key";
  auto store = OpenObjectStore(options);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto url = (*store)->PresignPut("a/b", std::chrono::minutes(5));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_THAT(*url, ::testing::StartsWith("https://s3.example.org/bucket/pre/fix/a/b?"));
  EXPECT_THAT(*url, HasSubstr("X-Amz-Expires=300"));
  EXPECT_THAT(*url, ::testing::Not(HasSubstr("very-secret")));
}

class DirectoryStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto scratch = TempDirectory::Create(std::filesystem::temp_directory_path(), "dir_store");
    ASSERT_TRUE(scratch.ok()) << scratch.status();
    scratch_.emplace(std::move(scratch).value());
    auto store = OpenUrl(FileUrl(scratch_->path()));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(store).value();
  }

  std::optional<TempDirectory> scratch_;
  std::unique_ptr<ObjectStore> store_;
};

TEST_F(DirectoryStoreTest, ObjectsAreFilesAndOutliveTheStore) {
  ASSERT_TRUE(store_->Put("a/b", "text", PutMode::kCreate).ok());
  store_.reset();
  EXPECT_EQ(ReadFile(scratch_->path() / "deep/store/a/b", 100).value(), "text");
  EXPECT_EQ(OpenUrl(FileUrl(scratch_->path())).value()->Get("a/b", 100).value(), "text");
}

TEST_F(DirectoryStoreTest, KeyBelowAnObjectIsAConflict) {
  ASSERT_TRUE(store_->Put("x", "text", PutMode::kOverwrite).ok());
  const Status below = store_->Put("x/y", "text", PutMode::kOverwrite);
  EXPECT_EQ(below.reason(), "OBJECT_KEY_CONFLICT") << below;
  EXPECT_EQ(store_->Get("x/y", 10).status().reason(), "OBJECT_NOT_FOUND");
  EXPECT_EQ(store_->Head("x/y").status().reason(), "OBJECT_NOT_FOUND");
  EXPECT_TRUE(store_->Delete("x/y").ok());
  EXPECT_EQ(store_->Get("x", 10).value(), "text");
}

TEST_F(DirectoryStoreTest, ForeignNamesAreNotListed) {
  ASSERT_TRUE(WriteFileAtomic(scratch_->path() / "deep/store/not ours", "x").ok());
  ASSERT_TRUE(store_->Put("ours", "x", PutMode::kOverwrite).ok());
  const auto page = store_->List("", {}).value();
  ASSERT_EQ(page.objects.size(), 1u);
  EXPECT_EQ(page.objects[0].key, "ours");
}

/// Files of this process may not grow beyond `bytes` while this lives: the nearest thing to a full disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit = {bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_ = {};
  void (*old_handler_)(int) = nullptr;
};

TEST_F(DirectoryStoreTest, FailedWriteShowsNothing) {
  ASSERT_TRUE(store_->Put("k", "old", PutMode::kOverwrite).ok());
  {
    const FileSizeLimit limit(4096);
    const Status status = store_->Put("k", std::string(100'000, 'x'), PutMode::kOverwrite);
    EXPECT_EQ(status.reason(), "NO_SPACE") << status;
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
    EXPECT_EQ(store_->Put("new", std::string(100'000, 'x'), PutMode::kCreate).reason(), "NO_SPACE");
  }
  EXPECT_EQ(store_->Get("k", 100).value(), "old");
  EXPECT_EQ(store_->List("", {}).value().objects.size(), 1u);
}

TEST(CountingObjectStoreTest, CountsCallsErrorsAndBytes) {
  auto memory = std::make_unique<MemoryObjectStore>();
  MemoryObjectStore* inner = memory.get();
  std::vector<StoreCall> seen;
  CountingObjectStore store(std::move(memory), [&](const StoreCall& call) { seen.push_back(call); });
  ASSERT_TRUE(store.Put("k", "12345", PutMode::kOverwrite).ok());
  inner->FailNext("Put", Unavailable("STORE_UNAVAILABLE", "down"));
  EXPECT_EQ(store.Put("k", "123", PutMode::kOverwrite).reason(), "STORE_UNAVAILABLE");
  EXPECT_EQ(store.Get("k", 100).value(), "12345");
  EXPECT_FALSE(store.Get("nope", 100).ok());
  auto writer = store.StartMultipart("m").value();
  ASSERT_TRUE(writer->Write("abc").ok());
  ASSERT_TRUE(writer->Complete().ok());

  const auto put = store.Counts(StoreOperation::kPut);
  EXPECT_EQ(put.calls, 2u);
  EXPECT_EQ(put.errors, 1u);
  EXPECT_EQ(put.bytes, 5u);
  const auto get = store.Counts(StoreOperation::kGet);
  EXPECT_EQ(get.calls, 2u);
  EXPECT_EQ(get.errors, 1u);
  EXPECT_EQ(get.bytes, 5u);
  EXPECT_EQ(store.Counts(StoreOperation::kMultipart).bytes, 3u);
  EXPECT_EQ(store.Counts(StoreOperation::kDelete).calls, 0u);
  EXPECT_EQ(StoreOperationName(StoreOperation::kGetToFile), "get_to_file");

  ASSERT_EQ(seen.size(), 5u);
  EXPECT_EQ(seen[0].operation, StoreOperation::kPut);
  EXPECT_TRUE(seen[0].ok);
  EXPECT_EQ(seen[0].bytes, 5u);
  EXPECT_FALSE(seen[1].ok);
  EXPECT_EQ(seen[1].bytes, 0u);
  EXPECT_EQ(seen[4].operation, StoreOperation::kMultipart);
  EXPECT_EQ(seen[4].bytes, 3u);
  for (const StoreCall& call : seen) EXPECT_GE(call.duration, Duration::zero());
}

}  // namespace
}  // namespace sbora
