// Refusals that no other test of a service meets: each by its code and reason.
#include "common/sha256.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using JobStub = v1::FineTuningService::Stub;

class RefusalsTest : public ContractTest {
 protected:
  grpc::Status CreateJob(const v1::CreateFineTuningJobRequest& request) {
    return Call(*jobs_, &JobStub::CreateFineTuningJob, request, &job_);
  }
  /// A running job and its lease.
  worker::v1::Lease StartJob(const std::string& id) {
    MakeModel("base");
    MakeDataset("data");
    EXPECT_TRUE(CreateJob(GoodJob(id)).ok());
    WaitForState(id, v1::FineTuningJob::STATE_QUEUED);
    const worker::v1::Lease lease = NextLease();
    ReportRunning(lease);
    return lease;
  }
  v1::Upload CreateUpload(const std::string& bytes) {
    v1::CreateUploadRequest request;
    request.set_parent(kProject);
    request.set_size_bytes(static_cast<int64_t>(bytes.size()));
    request.set_sha256(Sha256Hex(bytes));
    v1::Upload upload;
    EXPECT_TRUE(Call(*transfers_, &v1::TransferService::Stub::CreateUpload, request, &upload).ok());
    return upload;
  }
  static worker::v1::TaskResult TrainResult() {
    worker::v1::TaskResult result;
    result.mutable_train()->set_steps(2);
    return result;
  }

  v1::FineTuningJob job_;
};

TEST_F(RefusalsTest, LabelsAndNamesOfAJobHaveLimits) {
  v1::CreateFineTuningJobRequest request = GoodJob("first");
  v1::FineTuningJob& job = *request.mutable_fine_tuning_job();
  job.set_display_name(std::string(129, 'x'));
  for (int i = 0; i < 17; ++i) (*job.mutable_labels())["label" + std::to_string(i)] = "x";
  (*job.mutable_labels())[std::string(64, 'k')] = "x";
  const grpc::Status bad = CreateJob(request);
  EXPECT_TRUE(Fails(bad, grpc::INVALID_ARGUMENT, "INVALID_JOB"));
  EXPECT_THAT(ViolatedFields(bad), ::testing::ElementsAre("fine_tuning_job.display_name", "fine_tuning_job.labels", "fine_tuning_job.labels"));
}

TEST_F(RefusalsTest, AModelWithoutChatTemplateTakesNoChats) {
  MakeModel("base", std::string(64, 'a'), /*chat=*/false);
  MakeDataset("data");
  v1::CreateFineTuningJobRequest request = GoodJob("first");
  request.mutable_fine_tuning_job()->mutable_spec()->mutable_data()->set_prompt_template(v1::PROMPT_TEMPLATE_CHAT);
  const grpc::Status bad = CreateJob(request);
  EXPECT_TRUE(Fails(bad, grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
  EXPECT_THAT(ViolatedFields(bad), ::testing::ElementsAre("fine_tuning_job.spec.data.prompt_template"));
  v1::GenerateRequest generate;
  generate.set_parent(kProject);
  generate.set_model("base");
  generate.add_prompts("hello");
  generate.set_prompt_template(v1::PROMPT_TEMPLATE_CHAT);
  v1::GenerateResponse texts;
  EXPECT_TRUE(Fails(Call(*evaluations_, &v1::EvaluationService::Stub::Generate, generate, &texts), grpc::INVALID_ARGUMENT, "NO_CHAT_TEMPLATE"));
}

TEST_F(RefusalsTest, AnUnfinishedUploadIsNoFileYet) {
  v1::CreateDatasetRequest request;
  request.set_parent(kProject);
  request.set_upload(CreateUpload(kGoodData).name());
  v1::Dataset dataset;
  EXPECT_TRUE(Fails(Call(*datasets_, &v1::DatasetService::Stub::CreateDataset, request, &dataset), grpc::FAILED_PRECONDITION,
                    "UPLOAD_NOT_FINISHED"));
}

TEST_F(RefusalsTest, DataSetsNameTheirFieldsInBounds) {
  v1::CreateDatasetRequest request;
  request.set_parent(kProject);
  request.set_upload(UploadBytes(kGoodData).name());
  request.mutable_dataset()->set_display_name(std::string(129, 'x'));
  v1::Dataset dataset;
  const auto create = [&] { return Call(*datasets_, &v1::DatasetService::Stub::CreateDataset, request, &dataset); };
  EXPECT_TRUE(Fails(create(), grpc::INVALID_ARGUMENT, "DISPLAY_NAME_TOO_LONG"));
  request.mutable_dataset()->clear_display_name();
  request.mutable_dataset()->set_format(static_cast<v1::DatasetFormat>(99));
  EXPECT_TRUE(Fails(create(), grpc::INVALID_ARGUMENT, "BAD_ENUM"));
}

TEST_F(RefusalsTest, TheNewerWriterOfAnUploadTakesOver) {
  const v1::Upload upload = CreateUpload("0123456789");
  v1::WriteUploadRequest chunk;
  chunk.set_name(upload.name());
  chunk.set_data("01234");
  grpc::ClientContext older_context, newer_context;
  Prepare(older_context);
  Prepare(newer_context);
  v1::Upload older_answer, newer_answer;
  const auto older = transfers_->WriteUpload(&older_context, &older_answer);
  ASSERT_TRUE(older->Write(chunk));
  // The older call's bytes are there before the newer one begins.
  v1::GetUploadRequest get;
  get.set_name(upload.name());
  v1::Upload now;
  while (now.received_bytes() < 5) ASSERT_TRUE(Call(*transfers_, &v1::TransferService::Stub::GetUpload, get, &now).ok());
  const auto newer = transfers_->WriteUpload(&newer_context, &newer_answer);
  chunk.set_offset(5);
  chunk.set_data("56789");
  ASSERT_TRUE(newer->Write(chunk));
  newer->WritesDone();
  const grpc::Status taken = newer->Finish();
  EXPECT_TRUE(taken.ok()) << FromGrpc(taken);
  EXPECT_EQ(newer_answer.received_bytes(), 10);
  chunk.set_offset(5);
  chunk.set_data("evil!");
  older->Write(chunk);
  older->WritesDone();
  EXPECT_TRUE(Fails(older->Finish(), grpc::ABORTED, "UPLOAD_TAKEN_OVER"));
  v1::FinishUploadRequest finish;
  finish.set_name(upload.name());
  EXPECT_TRUE(Call(*transfers_, &v1::TransferService::Stub::FinishUpload, finish, &now).ok());
}

TEST_F(RefusalsTest, TheManifestIsTheCoordinatorsAndWrittenOnce) {
  const worker::v1::Lease lease = StartJob("first");
  EXPECT_TRUE(Fails(Commit(lease, TrainResult(), {{"manifest.json", "{}"}}), grpc::INVALID_ARGUMENT, "RESERVED_FILE_NAME"));
  const std::string key = "projects/default/manifests/" + GetJob("first").uid() + "/" + std::to_string(lease.id().epoch()) + ".json";
  ASSERT_TRUE(server_->services().objects->Put(key, "another", PutMode::kCreate).ok());
  EXPECT_TRUE(Fails(Commit(lease, TrainResult(), {{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "factors"}}),
                    grpc::FAILED_PRECONDITION, "MANIFEST_EXISTS"));
  EXPECT_EQ(GetJob("first").state(), v1::FineTuningJob::STATE_RUNNING);
}

TEST_F(RefusalsTest, AnObjectThatChangedInTheStoreIsNotCommitted) {
  const worker::v1::Lease lease = StartJob("first");
  worker::v1::CommitAttemptRequest request;
  request.set_worker("agent");
  request.set_instance_uuid(instance_);
  *request.mutable_lease() = lease.id();
  *request.mutable_result() = TrainResult();
  *request.add_files() = FileOf("adapter_config.json", "{}");
  const std::string object = request.files(0).object();
  const std::string key = "projects/default/objects/" + object.substr(object.rfind('/') + 1);
  ASSERT_TRUE(server_->services().objects->Put(key, "longer than it was", PutMode::kOverwrite).ok());
  worker::v1::CommitAttemptResponse response;
  EXPECT_TRUE(Fails(Call(*worker_, &worker::v1::WorkerService::Stub::CommitAttempt, request, &response), grpc::DATA_LOSS, "OBJECT_SIZE"));
}

TEST_F(RefusalsTest, AReplacedAgentIsToldSo) {
  const std::string old_instance = instance_;
  worker::v1::SynchronizeResponse response;
  const auto sync = [&] { return Call(*worker_, &worker::v1::WorkerService::Stub::Synchronize, SyncRequest(), &response); };
  ASSERT_TRUE(sync().ok());
  instance_ = NewUuid4();
  ASSERT_TRUE(sync().ok());
  instance_ = old_instance;
  EXPECT_TRUE(Fails(sync(), grpc::FAILED_PRECONDITION, "WORKER_REPLACED"));
}

TEST_F(RefusalsTest, AdaptersOfAProjectAreListed) {
  const worker::v1::Lease lease = StartJob("first");
  ASSERT_TRUE(Commit(lease, TrainResult(), {{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "factors"}}).ok());
  v1::ListAdaptersRequest list;
  list.set_parent(kProject);
  v1::ListAdaptersResponse adapters;
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::ListAdapters, list, &adapters).ok());
  ASSERT_EQ(adapters.adapters_size(), 1);
  EXPECT_EQ(adapters.adapters(0).name(), "projects/default/adapters/first");
  EXPECT_EQ(adapters.adapters(0).fine_tuning_job(), "projects/default/fineTuningJobs/first");
  list.set_parent("projects/other");
  adapters.Clear();
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::ListAdapters, list, &adapters).ok());
  EXPECT_EQ(adapters.adapters_size(), 0);
}

}  // namespace
}  // namespace sbora::server
