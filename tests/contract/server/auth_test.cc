// Tokens and roles.
#include "common/sha256.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

class AuthTest : public ContractTest {
 protected:
  void Configure(config::v1::ServerConfig& config) override {
    const std::filesystem::path file = directory_.path() / "tokens";
    std::string lines = "# role sha256\n";
    for (const char* role : {"admin", "submitter", "viewer", "worker"}) {
      lines += std::string(role) + " " + Sha256Hex(std::string(role) + "-secret") + "\n";
    }
    ASSERT_TRUE(WriteFileAtomic(file, lines).ok());
    config.set_token_file(file.string());
  }
};

TEST_F(AuthTest, EveryRoleMayDoItsOwnThingsOnly) {
  v1::ListModelsRequest list;
  list.set_parent(kProject);
  v1::ListModelsResponse models;
  const auto read = [&] { return Call(*models_, &v1::ModelService::Stub::ListModels, list, &models); };
  v1::CreateUploadRequest create;
  create.set_parent(kProject);
  create.set_sha256(Sha256Hex(""));
  v1::Upload upload;
  const auto write = [&] { return Call(*transfers_, &v1::TransferService::Stub::CreateUpload, create, &upload); };
  v1::DrainWorkerRequest drain;
  drain.set_name("workers/nobody");
  v1::Worker drained;
  const auto administer = [&] { return Call(*admin_, &v1::AdminService::Stub::DrainWorker, drain, &drained); };
  worker::v1::SynchronizeResponse synced;
  const auto work = [&] { return Call(*worker_, &worker::v1::WorkerService::Stub::Synchronize, SyncRequest(), &synced); };

  EXPECT_TRUE(Fails(read(), grpc::UNAUTHENTICATED, "TOKEN_MISSING"));
  token_ = "guess";
  EXPECT_TRUE(Fails(read(), grpc::UNAUTHENTICATED, "TOKEN_UNKNOWN"));
  token_ = "viewer-secret";
  EXPECT_TRUE(read().ok());
  EXPECT_TRUE(Fails(write(), grpc::PERMISSION_DENIED, "ROLE_NOT_ALLOWED"));
  EXPECT_TRUE(Fails(work(), grpc::PERMISSION_DENIED, "ROLE_NOT_ALLOWED"));
  token_ = "submitter-secret";
  EXPECT_TRUE(read().ok());
  EXPECT_TRUE(write().ok());
  EXPECT_TRUE(Fails(administer(), grpc::PERMISSION_DENIED, "ROLE_NOT_ALLOWED"));
  token_ = "worker-secret";
  EXPECT_TRUE(write().ok());
  EXPECT_TRUE(work().ok());
  EXPECT_TRUE(Fails(read(), grpc::PERMISSION_DENIED, "ROLE_NOT_ALLOWED"));
  token_ = "admin-secret";
  EXPECT_TRUE(Fails(administer(), grpc::NOT_FOUND, "WORKER_NOT_FOUND"));
}

TEST_F(AuthTest, StreamsAskForTheTokenToo) {
  grpc::ClientContext context;
  Prepare(context);
  v1::Upload upload;
  const auto writer = transfers_->WriteUpload(&context, &upload);
  writer->WritesDone();
  EXPECT_TRUE(Fails(writer->Finish(), grpc::UNAUTHENTICATED, "TOKEN_MISSING"));
  grpc::ClientContext watch_context;
  Prepare(watch_context);
  v1::WatchFineTuningJobResponse response;
  const auto reader = jobs_->WatchFineTuningJob(&watch_context, v1::WatchFineTuningJobRequest());
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(Fails(reader->Finish(), grpc::UNAUTHENTICATED, "TOKEN_MISSING"));
}

}  // namespace
}  // namespace sbora::server
