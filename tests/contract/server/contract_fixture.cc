#include "tests/contract/server/contract_fixture.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/sha256.h"
#include "core/model_config.h"
#include "server/config.h"
#include "tests/unit/data/tiny_text_model.h"

namespace sbora::server {
namespace {

std::string TinyConfigJson() {
  core::ModelConfig config;
  config.hidden_size = 16;
  config.num_layers = 1;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 8;
  config.intermediate_size = 16;
  config.vocab_size = 128;
  config.max_position_embeddings = 256;
  config.eos_token_ids = {2};
  return core::ToHfConfigJson(config);
}

TempDirectory MakeDirectory() {
  auto directory = TempDirectory::Create(::testing::TempDir(), "contract");
  SBORA_CHECK(directory.ok(), "{}", directory.status().ToString());
  return std::move(directory).value();
}

}  // namespace

::testing::AssertionResult Fails(const grpc::Status& status, grpc::StatusCode code, const std::string& reason) {
  const Status converted = FromGrpc(status);
  if (status.error_code() == code && converted.reason() == reason) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << converted.ToString() << ", expected code " << code << " and reason " << reason;
}

std::vector<std::string> ViolatedFields(const grpc::Status& status) {
  std::vector<std::string> fields;
  const Status converted = FromGrpc(status);
  for (const FieldViolation& violation : converted.violations()) fields.push_back(violation.field);
  return fields;
}

ContractTest::ContractTest() : directory_(MakeDirectory()) {}

void ContractTest::StartServer() {
  config::v1::ServerConfig config;
  config.set_listen("127.0.0.1:0");
  config.set_http_listen("127.0.0.1:0");
  config.set_data_dir((directory_.path() / "data").string());
  Configure(config);
  FillDefaults(config);
  auto server = SboraServer::Start(config);
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = std::move(server).value();
  channel_ = server_->InProcessChannel();
  models_ = v1::ModelService::NewStub(channel_);
  datasets_ = v1::DatasetService::NewStub(channel_);
  jobs_ = v1::FineTuningService::NewStub(channel_);
  adapters_ = v1::AdapterService::NewStub(channel_);
  evaluations_ = v1::EvaluationService::NewStub(channel_);
  transfers_ = v1::TransferService::NewStub(channel_);
  admin_ = v1::AdminService::NewStub(channel_);
  operations_ = google::longrunning::Operations::NewStub(channel_);
  worker_ = worker::v1::WorkerService::NewStub(channel_);
}

void ContractTest::StopServer() {
  server_->Stop();
  server_.reset();
}

void ContractTest::Prepare(grpc::ClientContext& context) const {
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  if (token_) context.AddMetadata("authorization", "Bearer " + *token_);
}

v1::Upload ContractTest::UploadBytes(const std::string& bytes, const std::string& project) {
  v1::CreateUploadRequest create;
  create.set_parent(project);
  create.set_size_bytes(static_cast<int64_t>(bytes.size()));
  create.set_sha256(Sha256Hex(bytes));
  v1::Upload upload;
  EXPECT_TRUE(Call(*transfers_, &v1::TransferService::Stub::CreateUpload, create, &upload).ok());
  grpc::ClientContext context;
  Prepare(context);
  v1::Upload written;
  const auto writer = transfers_->WriteUpload(&context, &written);
  v1::WriteUploadRequest chunk;
  chunk.set_name(upload.name());
  chunk.set_data(bytes);
  writer->Write(chunk);
  writer->WritesDone();
  const grpc::Status status = writer->Finish();
  EXPECT_TRUE(status.ok()) << FromGrpc(status);
  v1::FinishUploadRequest finish;
  finish.set_name(upload.name());
  const grpc::Status finished = Call(*transfers_, &v1::TransferService::Stub::FinishUpload, finish, &upload);
  EXPECT_TRUE(finished.ok()) << FromGrpc(finished);
  return upload;
}

v1::File ContractTest::FileOf(const std::string& path, const std::string& bytes) {
  v1::File file;
  file.set_path(path);
  file.set_size_bytes(static_cast<int64_t>(bytes.size()));
  file.set_sha256(Sha256Hex(bytes));
  file.set_object(UploadBytes(bytes).object());
  return file;
}

grpc::Status ContractTest::ImportModel(const std::string& id, google::longrunning::Operation* operation, const std::string& request_id) {
  v1::ImportModelRequest request;
  request.set_parent(kProject);
  request.set_model_id(id);
  request.set_request_id(request_id);
  v1::UploadedFile& file = *request.add_files();
  file.set_path("model.gguf");
  file.set_upload(UploadBytes("weights").name());
  return Call(*models_, &v1::ModelService::Stub::ImportModel, request, operation);
}

void ContractTest::MakeModel(const std::string& id, const std::string& base_hash, bool chat) {
  google::longrunning::Operation operation;
  const grpc::Status imported = ImportModel(id, &operation);
  ASSERT_TRUE(imported.ok()) << FromGrpc(imported);
  const worker::v1::Lease lease = NextLease();
  ASSERT_TRUE(lease.task().has_import());
  worker::v1::TaskResult result;
  worker::v1::ImportResult& import = *result.mutable_import();
  import.set_base_hash(base_hash);
  import.set_architecture("LlamaForCausalLM");
  import.set_parameters(1000);
  import.set_context_tokens(256);
  import.set_config_json(TinyConfigJson());
  import.set_has_chat_template(chat);
  nlohmann::json tokenizer_config = {{"eos_token", "<|im_end|>"}};
  if (chat) tokenizer_config["chat_template"] = data::testing::kChatTemplate;
  const grpc::Status committed = Commit(lease, result, {{"config.json", TinyConfigJson()},
                                                        {"tokenizer.json", data::testing::TinyTokenizerJson()},
                                                        {"tokenizer_config.json", tokenizer_config.dump()},
                                                        {"model.safetensors", "weights"}});
  ASSERT_TRUE(committed.ok()) << FromGrpc(committed);
}

grpc::Status ContractTest::CreateDataset(const std::string& id, const std::string& bytes, v1::Dataset* dataset) {
  v1::CreateDatasetRequest request;
  request.set_parent(kProject);
  request.set_dataset_id(id);
  request.set_upload(UploadBytes(bytes).name());
  return Call(*datasets_, &v1::DatasetService::Stub::CreateDataset, request, dataset);
}

void ContractTest::MakeDataset(const std::string& id) {
  v1::Dataset dataset;
  const grpc::Status created = CreateDataset(id, kGoodData, &dataset);
  ASSERT_TRUE(created.ok()) << FromGrpc(created);
}

v1::CreateFineTuningJobRequest ContractTest::GoodJob(const std::string& id) {
  v1::CreateFineTuningJobRequest request;
  request.set_parent(kProject);
  request.set_fine_tuning_job_id(id);
  v1::FineTuningSpec& spec = *request.mutable_fine_tuning_job()->mutable_spec();
  spec.set_model("base");
  spec.set_dataset("data");
  spec.mutable_adapter()->set_rank(4);
  spec.mutable_training()->set_max_steps(2);
  return request;
}

v1::FineTuningJob ContractTest::GetJob(const std::string& id) {
  v1::GetFineTuningJobRequest request;
  request.set_name(std::string(kProject) + "/fineTuningJobs/" + id);
  v1::FineTuningJob job;
  const grpc::Status got = Call(*jobs_, &v1::FineTuningService::Stub::GetFineTuningJob, request, &job);
  EXPECT_TRUE(got.ok()) << FromGrpc(got);
  return job;
}

void ContractTest::WaitForState(const std::string& id, v1::FineTuningJob::State state) {
  // The watch stream is the wait: no polling.
  v1::WatchFineTuningJobRequest request;
  request.set_name(std::string(kProject) + "/fineTuningJobs/" + id);
  grpc::ClientContext context;
  Prepare(context);
  const auto reader = jobs_->WatchFineTuningJob(&context, request);
  v1::WatchFineTuningJobResponse response;
  while (reader->Read(&response)) {
    // A replayed change shows the job as it is now, which may be further on.
    const bool queued = state == v1::FineTuningJob::STATE_QUEUED && response.job().state() > state;
    if (response.has_job() && (response.job().state() == state || queued)) {
      context.TryCancel();
      return;
    }
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(v1::FineTuningJob::State_Name(GetJob(id).state()), v1::FineTuningJob::State_Name(state)) << FromGrpc(status) << GetJob(id).DebugString();
}

int ContractTest::EndedCalls(const std::string& method, const std::string& code) const {
  const std::string text = server_->services().metrics->Serialize(server_->services().coordinator->Snapshot(), 0, true);
  const std::string series = fmt::format("grpc_server_call_duration_seconds_count{{grpc_method=\"{}\",grpc_status=\"{}\"}} ", method, code);
  const size_t found = text.find(series);
  return found == std::string::npos ? 0 : std::stoi(text.substr(found + series.size()));
}

void ContractTest::WaitForEndedCall(const std::string& method, const std::string& code, int before) const {
  const MonotonicTime limit = SystemClock().Now() + std::chrono::seconds(60);
  while (EndedCalls(method, code) <= before && SystemClock().Now() < limit) {
    SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(5), {});
  }
  EXPECT_EQ(EndedCalls(method, code), before + 1) << method << " " << code;
}

worker::v1::SynchronizeRequest ContractTest::SyncRequest() const {
  worker::v1::SynchronizeRequest request;
  request.set_worker("agent");
  request.set_instance_uuid(instance_);
  request.set_protocol_min(1);
  request.set_protocol_max(1);
  request.set_version("test");
  request.set_host("here");
  worker::v1::Slot& slot = *request.add_slots();
  slot.set_id("cpu0");
  slot.set_device("cpu");
  request.add_gpus("Test GPU");  // in the machine, offered by no slot
  for (const auto& [uid, report] : attempts_) *request.add_attempts() = report;
  return request;
}

worker::v1::SynchronizeResponse ContractTest::Sync(const std::function<bool(const worker::v1::SynchronizeResponse&)>& enough) {
  worker::v1::SynchronizeResponse response;
  int64_t seen = 0;
  for (int calls = 0; calls < 20; ++calls) {
    worker::v1::SynchronizeRequest request = SyncRequest();
    request.set_acknowledged_sequence(seen);
    response.Clear();
    const grpc::Status status = Call(*worker_, &worker::v1::WorkerService::Stub::Synchronize, request, &response);
    EXPECT_TRUE(status.ok()) << FromGrpc(status);
    if (!status.ok() || enough(response)) return response;
    seen = response.sequence();
  }
  ADD_FAILURE() << "the coordinator never answered what was waited for; last: " << response.DebugString();
  return response;
}

worker::v1::Lease ContractTest::NextLease() {
  const auto response = Sync([](const worker::v1::SynchronizeResponse& answer) { return answer.start_size() > 0; });
  if (response.start().empty()) return {};
  const worker::v1::Lease& lease = response.start(0);
  worker::v1::AttemptReport& report = attempts_[lease.id().uid()];
  *report.mutable_lease() = lease.id();
  report.mutable_preparing()->set_phase("fetching model");
  return lease;
}

void ContractTest::ReportRunning(const worker::v1::Lease& lease) {
  worker::v1::AttemptReport& report = attempts_[lease.id().uid()];
  report.mutable_running()->set_device("cpu");
  report.mutable_running()->mutable_progress()->set_step(1);
  report.mutable_running()->mutable_progress()->set_total_steps(2);
  const std::string uid = lease.id().uid();
  Sync([&](const worker::v1::SynchronizeResponse& answer) {
    for (const auto& renewed : answer.renewed()) {
      if (renewed.id().uid() == uid) return true;
    }
    return false;
  });
}

grpc::Status ContractTest::Commit(const worker::v1::Lease& lease, const worker::v1::TaskResult& result,
                                  const std::vector<std::pair<std::string, std::string>>& files) {
  worker::v1::CommitAttemptRequest request;
  request.set_worker("agent");
  request.set_instance_uuid(instance_);
  *request.mutable_lease() = lease.id();
  *request.mutable_result() = result;
  for (const auto& [path, bytes] : files) *request.add_files() = FileOf(path, bytes);
  worker::v1::CommitAttemptResponse response;
  const grpc::Status status = Call(*worker_, &worker::v1::WorkerService::Stub::CommitAttempt, request, &response);
  if (status.ok()) attempts_.erase(lease.id().uid());
  return status;
}

void ContractTest::FinishJob(const std::string& id) {
  WaitForState(id, v1::FineTuningJob::STATE_QUEUED);
  const worker::v1::Lease lease = NextLease();
  ASSERT_TRUE(lease.task().has_train()) << lease.DebugString();
  ReportRunning(lease);
  worker::v1::TaskResult result;
  result.mutable_train()->set_steps(2);
  result.mutable_train()->set_final_loss(0.5);
  result.mutable_train()->set_trained_tokens(123);
  result.mutable_train()->set_supervised_share(0.25);
  result.mutable_train()->set_seconds(2.0);
  const grpc::Status committed = Commit(lease, result, {{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "factors"}});
  ASSERT_TRUE(committed.ok()) << FromGrpc(committed);
}

}  // namespace sbora::server
