// WorkerService.
#include "tests/contract/server/contract_fixture.h"

#include <fmt/format.h>

#include <array>

namespace sbora::server {
namespace {

using Stub = worker::v1::WorkerService::Stub;

class WorkerTest : public ContractTest {
 protected:
  worker::v1::SynchronizeResponse response_;
};

TEST_F(WorkerTest, BadAgentsAreRefusedByName) {
  worker::v1::SynchronizeRequest request = SyncRequest();
  request.set_protocol_min(2);
  request.set_protocol_max(3);
  EXPECT_TRUE(Fails(Call(*worker_, &Stub::Synchronize, request, &response_), grpc::FAILED_PRECONDITION, "PROTOCOL_VERSION"));
  request = SyncRequest();
  request.set_worker("Not A Label");
  EXPECT_TRUE(Fails(Call(*worker_, &Stub::Synchronize, request, &response_), grpc::INVALID_ARGUMENT, "BAD_RESOURCE_ID"));
  request = SyncRequest();
  request.set_instance_uuid("x");
  EXPECT_TRUE(Fails(Call(*worker_, &Stub::Synchronize, request, &response_), grpc::INVALID_ARGUMENT, "BAD_INSTANCE"));
  request = SyncRequest();
  request.add_attempts()->mutable_lease()->set_uid("x");
  const grpc::Status stateless = Call(*worker_, &Stub::Synchronize, request, &response_);
  EXPECT_TRUE(Fails(stateless, grpc::INVALID_ARGUMENT, "EMPTY_REPORT"));
  EXPECT_THAT(ViolatedFields(stateless), ::testing::ElementsAre("attempts[0].state"));
}

TEST_F(WorkerTest, AGangAddressIsOneShortWord) {
  for (const std::string& address : {std::string(256, 'a'), std::string("two words"), std::string("a\n"), std::string("\t"),
                                     std::string("http://node")}) {
    worker::v1::SynchronizeRequest request = SyncRequest();
    request.set_gang_address(address);
    const grpc::Status refused = Call(*worker_, &Stub::Synchronize, request, &response_);
    EXPECT_TRUE(Fails(refused, grpc::INVALID_ARGUMENT, "BAD_GANG_ADDRESS")) << address;
    EXPECT_THAT(refused.error_message(), ::testing::HasSubstr(fmt::format("has {} bytes", address.size())));
    EXPECT_THAT(refused.error_message(), ::testing::HasSubstr("at most 255"));
    EXPECT_THAT(ViolatedFields(refused), ::testing::ElementsAre("gang_address"));
  }
  worker::v1::SynchronizeRequest request = SyncRequest();
  request.set_gang_address(std::string(255, 'a'));
  EXPECT_TRUE(Call(*worker_, &Stub::Synchronize, request, &response_).ok());
}

TEST_F(WorkerTest, AGangOverTwoWorkersMeetsAndEndsAsOne) {
  MakeModel("base");
  MakeDataset("data");
  v1::CreateFineTuningJobRequest create = GoodJob("gang");
  create.mutable_fine_tuning_job()->mutable_spec()->mutable_resources()->set_ranks(2);
  v1::FineTuningJob job;
  const grpc::Status created = Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, create, &job);
  ASSERT_TRUE(created.ok()) << FromGrpc(created);
  WaitForState("gang", v1::FineTuningJob::STATE_QUEUED);
  // Two agents with a slot each, and their newest answers.
  std::array<worker::v1::SynchronizeRequest, 2> requests = {SyncRequest(), SyncRequest()};
  requests[1].set_worker("second");
  requests[1].set_instance_uuid(NewUuid4());
  std::array<worker::v1::SynchronizeResponse, 2> answers;
  const auto call = [&](size_t agent) {
    answers[agent].Clear();
    const grpc::Status status = Call(*worker_, &Stub::Synchronize, requests[agent], &answers[agent]);
    EXPECT_TRUE(status.ok()) << FromGrpc(status);
    requests[agent].set_acknowledged_sequence(answers[agent].sequence());
  };
  requests[0].set_gang_address("one.cluster");
  requests[1].set_gang_address("two.cluster");
  call(1);  // answered at once: it is known from here
  call(0);
  call(1);
  ASSERT_EQ(answers[0].start_size(), 1);
  ASSERT_EQ(answers[1].start_size(), 1);
  const std::array<worker::v1::Lease, 2> leases = {answers[0].start(0), answers[1].start(0)};
  EXPECT_EQ(leases[0].world_size(), 2);
  EXPECT_EQ(leases[1].world_size(), 2);
  EXPECT_EQ(leases[0].first_rank() + leases[1].first_rank(), 1);
  EXPECT_EQ(leases[0].id().epoch(), leases[1].id().epoch());
  const size_t leading = leases[0].first_rank() == 0 ? 0 : 1;
  for (size_t agent = 0; agent < 2; ++agent) {
    worker::v1::AttemptReport& report = *requests[agent].add_attempts();
    *report.mutable_lease() = leases[agent].id();
    report.mutable_preparing()->set_phase("waiting for the gang");
    report.set_ready(true);
    if (agent == leading) report.set_rendezvous("one.cluster:4711");
  }
  call(0);
  call(1);
  call(0);
  for (const worker::v1::SynchronizeResponse& answer : answers) {
    ASSERT_EQ(answer.renewed_size(), 1);
    EXPECT_EQ(answer.renewed(0).rendezvous(), "one.cluster:4711");
  }
  worker::v1::CommitAttemptRequest commit;
  commit.set_worker(requests[1 - leading].worker());
  commit.set_instance_uuid(requests[1 - leading].instance_uuid());
  *commit.mutable_lease() = leases[1 - leading].id();
  commit.mutable_result()->mutable_train();
  worker::v1::CommitAttemptResponse done;
  const grpc::Status refused = Call(*worker_, &Stub::CommitAttempt, commit, &done);
  EXPECT_TRUE(Fails(refused, grpc::FAILED_PRECONDITION, "LEASE_FENCED"));
  EXPECT_THAT(refused.error_message(), ::testing::HasSubstr("the part of the gang with rank 0 commits"));
  worker::v1::Ended& ended = *requests[leading].mutable_attempts(0)->mutable_ended();
  ended.set_reason(v1::TERMINATION_REASON_HANG);
  ended.mutable_failure()->set_reason("HANG");
  call(leading);
  call(1 - leading);
  ASSERT_EQ(answers[1 - leading].stop_size(), 1);
  EXPECT_EQ(answers[1 - leading].stop(0).reason(), worker::v1::StopLease::REASON_GANG_ENDED);
}

TEST_F(WorkerTest, OneCommitAndItsRepeat) {
  google::longrunning::Operation operation;
  ASSERT_TRUE(ImportModel("base", &operation).ok());
  const worker::v1::Lease lease = NextLease();
  EXPECT_EQ(lease.attempt(), 1);
  EXPECT_DOUBLE_EQ(lease.timing().self_fence_seconds(), 30);
  worker::v1::TaskResult result;
  result.mutable_train();
  EXPECT_TRUE(Fails(Commit(lease, result, {}), grpc::INVALID_ARGUMENT, "RESULT_KIND"));
  result.mutable_import();
  EXPECT_TRUE(Fails(Commit(lease, result, {{"config.json", "{}"}}), grpc::INVALID_ARGUMENT, "RESULT_INCOMPLETE"));

  worker::v1::CommitAttemptRequest request;
  request.set_worker("agent");
  request.set_instance_uuid(instance_);
  *request.mutable_lease() = lease.id();
  *request.mutable_result() = result;
  request.mutable_result()->mutable_import()->set_base_hash(std::string(64, 'b'));
  request.mutable_result()->mutable_import()->set_config_json("{}");
  *request.add_files() = FileOf("config.json", "{}");
  request.mutable_files(0)->set_sha256(std::string(64, '0'));
  worker::v1::CommitAttemptResponse done;
  EXPECT_TRUE(Fails(Call(*worker_, &Stub::CommitAttempt, request, &done), grpc::DATA_LOSS, "HASH_MISMATCH"));
  *request.mutable_files(0) = FileOf("config.json", "{}");
  ASSERT_TRUE(Call(*worker_, &Stub::CommitAttempt, request, &done).ok());
  EXPECT_TRUE(Call(*worker_, &Stub::CommitAttempt, request, &done).ok()) << "the same commit again";
  request.mutable_lease()->set_epoch(lease.id().epoch() + 1);
  EXPECT_TRUE(Fails(Call(*worker_, &Stub::CommitAttempt, request, &done), grpc::FAILED_PRECONDITION, "LEASE_FENCED"));
}

TEST_F(WorkerTest, ANewInstanceEndsTheOldOnesLeases) {
  google::longrunning::Operation operation;
  ASSERT_TRUE(ImportModel("base", &operation).ok());
  const worker::v1::Lease lease = NextLease();
  instance_ = NewUuid4();
  attempts_.clear();
  Sync([](const worker::v1::SynchronizeResponse&) { return true; });
  worker::v1::TaskResult result;
  result.mutable_import();
  EXPECT_TRUE(Fails(Commit(lease, result, {}), grpc::FAILED_PRECONDITION, "LEASE_FENCED"));
}

TEST_F(WorkerTest, CancellingAJobStopsItsLease) {
  google::longrunning::Operation operation;
  ASSERT_TRUE(ImportModel("base", &operation).ok());
  const worker::v1::Lease lease = NextLease();
  google::longrunning::CancelOperationRequest cancel;
  cancel.set_name(operation.name());
  google::protobuf::Empty empty;
  ASSERT_TRUE(Call(*operations_, &google::longrunning::Operations::Stub::CancelOperation, cancel, &empty).ok());
  const auto answer = Sync([](const worker::v1::SynchronizeResponse& response) { return response.stop_size() > 0; });
  ASSERT_EQ(answer.stop_size(), 1);
  EXPECT_EQ(answer.stop(0).id().uid(), lease.id().uid());
  EXPECT_EQ(answer.stop(0).reason(), worker::v1::StopLease::REASON_CANCEL);
}

TEST_F(WorkerTest, AnAdapterNeedsItsFiles) {
  MakeModel("base");
  MakeDataset("data");
  v1::FineTuningJob job;
  ASSERT_TRUE(Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, GoodJob("first"), &job).ok());
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  const worker::v1::Lease lease = NextLease();
  ReportRunning(lease);
  worker::v1::TaskResult result;
  result.mutable_train()->set_steps(2);
  EXPECT_TRUE(Fails(Commit(lease, result, {{"adapter_config.json", "{}"}}), grpc::INVALID_ARGUMENT, "FILE_MISSING"));
  EXPECT_TRUE(Fails(Commit(lease, result, {{"adapter_config.json", "{}"}, {"adapter_config.json", "{}"}}), grpc::INVALID_ARGUMENT,
                    "DUPLICATE_FILE"));
}

TEST_F(WorkerTest, FullFineTuningBringsACheckpointWhichIsNoAdapter) {
  MakeModel("base");
  MakeDataset("data");
  v1::CreateFineTuningJobRequest request = GoodJob("full");
  request.mutable_fine_tuning_job()->mutable_spec()->mutable_adapter()->set_method(v1::METHOD_FULL);
  v1::FineTuningJob job;
  const grpc::Status created = Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, request, &job);
  ASSERT_TRUE(created.ok()) << FromGrpc(created);
  EXPECT_EQ(job.spec().adapter().rank(), 0);
  EXPECT_EQ(job.spec().adapter().target_modules_size(), 7);
  WaitForState("full", v1::FineTuningJob::STATE_QUEUED);
  const worker::v1::Lease lease = NextLease();
  ReportRunning(lease);
  EXPECT_EQ(lease.task().train().indices_size(), 0);
  worker::v1::TaskResult result;
  result.mutable_train()->set_steps(2);
  EXPECT_TRUE(Fails(Commit(lease, result, {{"sbora_config.json", "{}"}, {"config.json", "{}"}}), grpc::INVALID_ARGUMENT, "FILE_MISSING"));
  EXPECT_TRUE(Fails(Commit(lease, result, {{"sbora_config.json", "{}"}, {"model.safetensors", "w"}}), grpc::INVALID_ARGUMENT,
                    "FILE_MISSING"));
  const grpc::Status committed =
      Commit(lease, result, {{"sbora_config.json", "{}"}, {"config.json", "{}"}, {"model.safetensors", "w"}, {"tokenizer.json", "{}"}});
  ASSERT_TRUE(committed.ok()) << FromGrpc(committed);
  v1::GetAdapterRequest get;
  get.set_name(std::string(kProject) + "/adapters/full");
  v1::Adapter adapter;
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::GetAdapter, get, &adapter).ok());
  EXPECT_EQ(adapter.method(), "full");
  EXPECT_EQ(adapter.files_size(), 5);  // with the manifest

  google::longrunning::Operation operation;
  v1::ExportAdapterRequest convert;
  convert.set_name(adapter.name());
  for (const v1::ExportFormat format : {v1::EXPORT_FORMAT_PEFT, v1::EXPORT_FORMAT_PATCH}) {
    convert.set_format(format);
    const grpc::Status refused = Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation);
    EXPECT_TRUE(Fails(refused, grpc::FAILED_PRECONDITION, "FULL_CHECKPOINT"));
    EXPECT_THAT(refused.error_message(), ::testing::HasSubstr("adapters pull full"));
  }
  v1::MergeAdaptersRequest merge;
  merge.set_parent(kProject);
  merge.add_adapters(adapter.name());
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::MergeAdapters, merge, &operation), grpc::FAILED_PRECONDITION,
                    "FULL_CHECKPOINT"));
  convert.set_format(v1::EXPORT_FORMAT_GGUF);
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation).ok());
  const worker::v1::Lease to_gguf = NextLease();
  ASSERT_EQ(to_gguf.task().inputs_size(), 1);  // no base is needed
  EXPECT_EQ(to_gguf.task().inputs(0).name(), "adapter");
}

TEST_F(WorkerTest, ALongLogLineIsNotCutInsideACharacter) {
  MakeModel("base");
  MakeDataset("data");
  v1::FineTuningJob job;
  ASSERT_TRUE(Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, GoodJob("first"), &job).ok());
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  const worker::v1::Lease lease = NextLease();
  worker::v1::ReportItem& item = *attempts_[lease.id().uid()].add_items();
  item.set_sequence(1);
  item.mutable_event()->set_type("LOG");
  std::string text = "x";
  while (text.size() < 20'000) text += "é";
  item.mutable_event()->set_message(text);
  ReportRunning(lease);
  v1::ListFineTuningEventsRequest request;
  request.set_parent(job.name());
  v1::ListFineTuningEventsResponse events;
  const grpc::Status listed = Call(*jobs_, &v1::FineTuningService::Stub::ListFineTuningEvents, request, &events);
  ASSERT_TRUE(listed.ok()) << FromGrpc(listed);
  int logs = 0;
  for (const v1::FineTuningEvent& event : events.events()) logs += event.type() == "LOG" && event.message().size() == 8191 ? 1 : 0;
  EXPECT_EQ(logs, 1) << events.DebugString().substr(0, 2000);
}

TEST_F(WorkerTest, ACheckpointThatIsRefusedBecomesAWarningAndCostsNoLease) {
  MakeModel("base");
  MakeDataset("data");
  v1::FineTuningJob job;
  ASSERT_TRUE(Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, GoodJob("first"), &job).ok());
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  const worker::v1::Lease lease = NextLease();
  v1::File unknown, other_size = FileOf("state.bin", "uploaded"), other_bytes = FileOf("state.bin", "uploaded");
  unknown.set_path("state.bin");
  const std::string unknown_uid = NewUuid7();
  unknown.set_object(std::string(kProject) + "/objects/" + unknown_uid);
  other_size.set_size_bytes(9);
  other_bytes.set_sha256(std::string(64, '0'));
  int64_t sequence = 0;
  for (const v1::File* file : {&unknown, &other_size, &other_bytes}) {
    worker::v1::ReportItem& item = *attempts_[lease.id().uid()].add_items();
    item.set_sequence(++sequence);
    item.mutable_checkpoint()->set_step(sequence);
    *item.mutable_checkpoint()->add_files() = *file;
  }
  ReportRunning(lease);
  v1::ListFineTuningEventsRequest request;
  request.set_parent(job.name());
  v1::ListFineTuningEventsResponse events;
  ASSERT_TRUE(Call(*jobs_, &v1::FineTuningService::Stub::ListFineTuningEvents, request, &events).ok());
  std::vector<std::string> warnings;
  for (const v1::FineTuningEvent& event : events.events()) {
    if (event.type() == "CHECKPOINT_REFUSED" && event.level() == v1::FineTuningEvent::LEVEL_WARN) warnings.push_back(event.message());
  }
  using ::testing::AllOf;
  using ::testing::HasSubstr;
  EXPECT_THAT(warnings, ::testing::ElementsAre(
                            AllOf(HasSubstr("checkpoint of step 1: "), HasSubstr("OBJECT_NOT_FOUND"), HasSubstr(unknown_uid)),
                            AllOf(HasSubstr("checkpoint of step 2: INVALID_ARGUMENT [BAD_CHECKPOINT]: state.bin is reported with 9 bytes"),
                                  HasSubstr(other_size.object() + " has 8 bytes")),
                            AllOf(HasSubstr("checkpoint of step 3: INVALID_ARGUMENT [BAD_CHECKPOINT]"), HasSubstr(std::string(64, '0')))));
  EXPECT_EQ(GetJob("first").state(), v1::FineTuningJob::STATE_RUNNING);
}

}  // namespace
}  // namespace sbora::server
