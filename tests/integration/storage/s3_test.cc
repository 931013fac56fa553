/// The object store contract against a real S3 server, named by SBORA_S3_TEST_ENDPOINT, SBORA_S3_TEST_BUCKET,
/// SBORA_S3_TEST_ACCESS_KEY_ID and SBORA_S3_TEST_SECRET_ACCESS_KEY (scripts/s3_test_server prints them); skipped
/// without. The bucket must exist; each test works below a prefix of its own.

#include <curl/curl.h>

#include <chrono>
#include <cstdlib>

#include "common/ids.h"
#include "common/storage/object_store.h"
#include "tests/unit/common_storage/object_store_contract.h"

namespace sbora {
namespace {

using ::testing::HasSubstr;

std::string Env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

constexpr char kWhySkipped[] = "SBORA_S3_TEST_ENDPOINT is not set; run: eval \"$(scripts/s3_test_server start)\"";

bool HasServer() { return !Env("SBORA_S3_TEST_ENDPOINT").empty(); }

ObjectStoreOptions ServerOptions() {
  ObjectStoreOptions options;
  options.url = "s3://" + Env("SBORA_S3_TEST_BUCKET") + "/test-" + NewUuid4();
  options.endpoint = Env("SBORA_S3_TEST_ENDPOINT");
  options.access_key_id = Env("SBORA_S3_TEST_ACCESS_KEY_ID");
  options.secret_access_key = Env("SBORA_S3_TEST_SECRET_ACCESS_KEY");
  options.allow_http = true;
  return options;
}

/// Without a server there is no case, and GoogleTest would call that an error.
std::vector<StoreCase> Cases() {
  if (!HasServer()) return {};
  return {StoreCase{"s3", [](const auto&) { return OpenObjectStore(ServerOptions()); }, /*presigns=*/true}};
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ObjectStoreContract);
INSTANTIATE_TEST_SUITE_P(Stores, ObjectStoreContract, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

class S3Test : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HasServer()) GTEST_SKIP() << kWhySkipped;
    auto store = OpenObjectStore(ServerOptions());
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(store).value();
  }

  std::unique_ptr<ObjectStore> store_;
};

struct HttpResult {
  long status = 0;  // libcurl's type
  std::string body;
};

size_t AppendBody(char* data, size_t size, size_t count, void* body) {
  static_cast<std::string*>(body)->append(data, size * count);
  return size * count;
}

/// One plain HTTP request, as a client without credentials would make it.
HttpResult Request(const std::string& method, const std::string& url, const std::string& body = "") {
  HttpResult result;
  const std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> curl(curl_easy_init(), &curl_easy_cleanup);
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_CUSTOMREQUEST, method.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, &AppendBody);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &result.body);
  curl_slist* headers = nullptr;
  if (method == "PUT") {
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDS, body.data());
    curl_easy_setopt(curl.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    headers = curl_slist_append(headers, "Content-Type:");  // libcurl's default is a form
    curl_easy_setopt(curl.get(), CURLOPT_HTTPHEADER, headers);
  }
  EXPECT_EQ(curl_easy_perform(curl.get()), CURLE_OK) << method;
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &result.status);
  curl_slist_free_all(headers);
  return result;
}

TEST_F(S3Test, PresignedUrlsWorkForWhomeverHoldsThem) {
  const std::string text = Pattern(100'000);
  const auto put = store_->PresignPut("up/loaded", std::chrono::minutes(5));
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(Request("PUT", *put, text).status, 200);
  EXPECT_TRUE(store_->Get("up/loaded", 1 << 20).value() == text);

  const auto get = store_->PresignGet("up/loaded", std::chrono::minutes(5));
  ASSERT_TRUE(get.ok()) << get.status();
  const HttpResult fetched = Request("GET", *get);
  EXPECT_EQ(fetched.status, 200);
  EXPECT_TRUE(fetched.body == text);
  // A URL is for one object and one method.
  EXPECT_EQ(Request("PUT", *get, "other").status, 403);
  std::string elsewhere = *get;
  elsewhere.replace(elsewhere.find("loaded"), 6, "stolen");
  EXPECT_EQ(Request("GET", elsewhere).status, 403);
}

TEST_F(S3Test, WrongSecretAndWrongBucketAreNamed) {
  ObjectStoreOptions options = ServerOptions();
  options.secret_access_key = "not-the-secret-key-of-this-server";
  auto denied = OpenObjectStore(options).value()->Get("k", 1);
  EXPECT_EQ(denied.status().reason(), "STORE_PERMISSION_DENIED") << denied.status();
  options = ServerOptions();
  options.url = "s3://no-such-bucket-here";
  auto missing = OpenObjectStore(options).value()->Put("k", "x", PutMode::kOverwrite);
  EXPECT_EQ(missing.reason(), "BUCKET_NOT_FOUND") << missing;
}

TEST_F(S3Test, MovesSixtyFourMebibytesInParts) {
  auto scratch = TempDirectory::Create(std::filesystem::temp_directory_path(), "s3_big");
  ASSERT_TRUE(scratch.ok()) << scratch.status();
  const auto from = scratch->path() / "from";
  const auto to = scratch->path() / "to";
  const std::string bytes = Pattern((size_t{64} << 20) + 17);
  ASSERT_TRUE(WriteFileAtomic(from, bytes).ok());
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(store_->PutFile("big", from).value(), bytes.size());
  const auto sent = std::chrono::steady_clock::now();
  ASSERT_EQ(store_->GetToFile("big", to).value(), bytes.size());
  const auto received = std::chrono::steady_clock::now();
  EXPECT_TRUE(ReadFile(to, 1 << 30).value() == bytes);
  const auto seconds = [](auto span) { return std::to_string(std::chrono::duration<double>(span).count()); };
  RecordProperty("put_seconds", seconds(sent - start));
  RecordProperty("get_seconds", seconds(received - sent));
}

}  // namespace
}  // namespace sbora
