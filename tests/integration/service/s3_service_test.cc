/// A job from import to pull with the service's objects in a real S3 server: presigned URLs both ways, checkpoints, the
/// manifest and the commit. The server is named as for tests/integration/storage (scripts/s3_test_server); skipped without.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "common/grpc/http_transfer.h"
#include "common/ids.h"
#include "common/sha256.h"
#include "common/storage/object_store.h"
#include "tests/integration/service/small_job.h"

namespace sbora::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using std::chrono::seconds;

std::string Env(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

class S3ServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (Env("SBORA_S3_TEST_ENDPOINT").empty()) {
      GTEST_SKIP() << "SBORA_S3_TEST_ENDPOINT is not set; run: scripts/s3_test_server run ctest --test-dir build/release -R s3";
    }
    options_.url = "s3://" + Env("SBORA_S3_TEST_BUCKET") + "/service-" + NewUuid4();
    options_.endpoint = Env("SBORA_S3_TEST_ENDPOINT");
    options_.access_key_id = Env("SBORA_S3_TEST_ACCESS_KEY_ID");
    options_.secret_access_key = Env("SBORA_S3_TEST_SECRET_ACCESS_KEY");
    options_.allow_http = true;
    auto bucket = OpenObjectStore(options_);
    ASSERT_TRUE(bucket.ok()) << bucket.status();
    bucket_ = std::move(bucket).value();
    auto service = Service::Create();
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = std::move(service).value();
    const auto credentials = service_->directory() / "s3-credentials";
    ASSERT_TRUE(WriteFileAtomic(credentials, "access_key_id=" + options_.access_key_id + "\nsecret_access_key=" +
                                                 options_.secret_access_key + "\n")
                    .ok());
    service_->set_server_arguments({"--object-store", options_.url, "--s3-endpoint", options_.endpoint, "--s3-credentials-file",
                                    credentials.string(), "--s3-allow-http"});
    const Status prepared = StartAndAddInputs(*service_);
    ASSERT_TRUE(prepared.ok()) << prepared << service_->Logs();
  }

  /// The server's /metrics.
  std::string Metrics() {
    std::string text;
    const Status got = HttpGet("http://" + service_->http_address() + "/metrics", 0, {}, std::stop_token(), [&](std::string_view bytes) {
      text += bytes;
      return OkStatus();
    });
    EXPECT_TRUE(got.ok()) << got;
    return text;
  }

  ObjectStoreOptions options_;
  std::unique_ptr<ObjectStore> bucket_;
  std::unique_ptr<Service> service_;
};

TEST_F(S3ServiceTest, AJobRunsFromImportToPullWithItsObjectsInTheBucket) {
  ASSERT_TRUE(service_->Submit("whole", SmallSpec(20)).ok());
  const auto ended = service_->WaitForState("whole", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
  ASSERT_TRUE(ended.ok()) << ended.status() << service_->Logs();
  const auto adapter = service_->client().GetAdapter(ended->adapter());
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  const auto pulled = service_->directory() / "pulled";
  const Status pull = service_->client().Pull(adapter->files(), adapter->manifest_sha256(), pulled, {});
  ASSERT_TRUE(pull.ok()) << pull;
  for (const v1::File& file : adapter->files()) {
    const auto digest = DigestFile(pulled / file.path());
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(digest->sha256, file.sha256()) << file.path();
  }

  // Every byte went by presigned URL: the server's own streams were never asked for.
  const std::string metrics = Metrics();
  EXPECT_THAT(metrics, HasSubstr("TransferService/CreateUpload"));
  EXPECT_THAT(metrics, HasSubstr("TransferService/GetDownload"));
  EXPECT_THAT(metrics, Not(HasSubstr("TransferService/WriteUpload")));
  EXPECT_THAT(metrics, Not(HasSubstr("TransferService/Download\"")));
  EXPECT_FALSE(std::filesystem::exists(service_->directory() / "server" / "objects"));

  // What was committed is in the bucket, and the manifest's key is taken for good.
  const std::string manifest_key = "projects/default/manifests/" + ended->uid() + "/1.json";
  const auto manifest = bucket_->Get(manifest_key, 1 << 20);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(Sha256Hex(*manifest), adapter->manifest_sha256());
  EXPECT_EQ(bucket_->Put(manifest_key, "another", PutMode::kCreate).reason(), "OBJECT_EXISTS");
}

TEST_F(S3ServiceTest, AKilledServerFindsItsObjectsAgainAndTheJobEndsWithTheSameBytes) {
  ASSERT_TRUE(service_->Submit("undisturbed", SmallSpec(300)).ok());
  ASSERT_TRUE(service_->WaitForState("undisturbed", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120)).ok()) << service_->Logs();
  ASSERT_TRUE(service_->Submit("killed", SmallSpec(300)).ok());
  ASSERT_TRUE(service_->WaitForStep("killed", 10, seconds(120)).ok()) << service_->Logs();
  service_->server().Kill();
  service_->worker().Kill();
  ASSERT_TRUE(service_->StartBoth().ok()) << service_->Logs();
  const auto ended = service_->WaitForState("killed", v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
  ASSERT_TRUE(ended.ok()) << ended.status() << service_->Logs();
  EXPECT_EQ(*service_->AdapterHash("killed"), *service_->AdapterHash("undisturbed"));
}

}  // namespace
}  // namespace sbora::testing
