// Models, data sets, adapters, operations and the admin service.
#include <grpcpp/generic/generic_stub.h>

#include <filesystem>
#include <sstream>

#include "server/config.h"
#include "server/services/auth.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class ResourcesTest : public ContractTest {};

/// All methods of our services, as the descriptors have them.
std::vector<const google::protobuf::MethodDescriptor*> AllMethods() {
  const auto* pool = google::protobuf::DescriptorPool::generated_pool();
  std::vector<const google::protobuf::MethodDescriptor*> methods;
  for (const char* name : {"sbora.v1.ModelService", "sbora.v1.DatasetService", "sbora.v1.FineTuningService", "sbora.v1.AdapterService",
                           "sbora.v1.EvaluationService", "sbora.v1.TransferService", "sbora.v1.AdminService",
                           "google.longrunning.Operations", "sbora.worker.v1.WorkerService"}) {
    const auto* service = pool->FindServiceByName(name);
    EXPECT_NE(service, nullptr) << name;
    for (int i = 0; service != nullptr && i < service->method_count(); ++i) methods.push_back(service->method(i));
  }
  return methods;
}

TEST_F(ResourcesTest, EveryRpcAnswersAnEmptyRequestWithDetailsOrSuccess) {
  grpc::GenericStub stub(channel_);
  int called = 0;
  for (const auto* method : AllMethods()) {
    if (method->client_streaming() || method->server_streaming()) continue;
    const std::string path = "/" + method->service()->full_name() + "/" + method->name();
    grpc::ClientContext context;
    Prepare(context);
    grpc::CompletionQueue queue;
    const grpc::Slice empty("", 0);
    const auto call = stub.PrepareUnaryCall(&context, path, grpc::ByteBuffer(&empty, 1), &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, &called);
    void* tag = nullptr;
    bool ok = false;
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_NE(status.error_code(), grpc::StatusCode::UNKNOWN) << path;
    if (!status.ok()) {
      EXPECT_THAT(FromGrpc(status).reason(), ::testing::Not(::testing::StartsWith("GRPC_"))) << path;
    }
    ++called;
  }
  EXPECT_GT(called, 40);
}

TEST_F(ResourcesTest, EveryRpcSaysWhatItDoes) {
  int commented = 0;
  for (const char* file : {"v1/adapter", "v1/admin", "v1/dataset", "v1/evaluation", "v1/job", "v1/model", "v1/transfer", "worker/v1/worker"}) {
    const auto text = ReadFile(std::filesystem::path(SBORA_SOURCE_DIR) / "proto/sbora" / (std::string(file) + ".proto"), 1 << 20);
    ASSERT_TRUE(text.ok()) << text.status();
    std::istringstream lines(*text);
    std::string line, before;
    for (; std::getline(lines, line); before = line) {
      if (!line.starts_with("  rpc ")) continue;
      EXPECT_TRUE(before.starts_with("  // ")) << file << ": " << line;
      ++commented;
    }
  }
  EXPECT_GT(commented, 40);
}

TEST_F(ResourcesTest, EveryRpcIsInTheTableOfRoles) {
  for (const auto* method : AllMethods()) {
    EXPECT_NE(RolesAllowed(method->service()->full_name() + "/" + method->name()), 0U) << method->full_name();
  }
  EXPECT_EQ(RolesAllowed("sbora.v1.ModelService/Unheard"), 0U);
}

TEST_F(ResourcesTest, ImportBecomesAModelThatIsListedAndDeleted) {
  MakeModel("base");
  v1::GetModelRequest get;
  get.set_name("projects/default/models/base");
  v1::Model model;
  ASSERT_TRUE(Call(*models_, &v1::ModelService::Stub::GetModel, get, &model).ok());
  EXPECT_EQ(model.name(), get.name());
  EXPECT_EQ(model.base_hash(), std::string(64, 'a'));
  EXPECT_EQ(model.files_size(), 4);
  EXPECT_FALSE(model.etag().empty());

  v1::DeleteModelRequest remove;
  remove.set_name(get.name());
  remove.set_etag("v99");
  google::protobuf::Empty empty;
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::DeleteModel, remove, &empty), grpc::ABORTED, "ETAG_MISMATCH"));
  remove.set_etag("nonsense");
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::DeleteModel, remove, &empty), grpc::ABORTED, "ETAG_MISMATCH"));
  remove.set_etag(model.etag());
  EXPECT_TRUE(Call(*models_, &v1::ModelService::Stub::DeleteModel, remove, &empty).ok());
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::GetModel, get, &model), grpc::NOT_FOUND, "MODEL_NOT_FOUND"));
  MakeModel("base");
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::DeleteModel, remove, &empty), grpc::ABORTED, "ETAG_MISMATCH"))
      << "the etag of a deleted namesake";
}

TEST_F(ResourcesTest, ImportRefusesBadInput) {
  google::longrunning::Operation operation;
  v1::ImportModelRequest request;
  request.set_parent("nonsense");
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::ImportModel, request, &operation), grpc::INVALID_ARGUMENT, "BAD_RESOURCE_NAME"));
  request.set_parent(kProject);
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::ImportModel, request, &operation), grpc::INVALID_ARGUMENT, "INVALID_MODEL_FILES"));
  request.add_files()->set_path("../../etc/passwd");
  request.add_files()->set_path("config.json");
  request.add_files()->set_path("config.json");
  const grpc::Status bad = Call(*models_, &v1::ModelService::Stub::ImportModel, request, &operation);
  EXPECT_TRUE(Fails(bad, grpc::INVALID_ARGUMENT, "INVALID_MODEL_FILES"));
  EXPECT_THAT(ViolatedFields(bad), ::testing::ElementsAre("files[0].path", "files[2].path"));
  request.clear_files();
  request.add_files()->set_path("model.gguf");
  request.mutable_files(0)->set_upload(std::string(kProject) + "/uploads/" + NewUuid7());
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::ImportModel, request, &operation), grpc::NOT_FOUND, "UPLOAD_NOT_FOUND"));
  request.set_model_id("Not A Label");
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::ImportModel, request, &operation), grpc::INVALID_ARGUMENT, "BAD_RESOURCE_ID"));
  request.set_model_id("");
  request.set_request_id("nonsense");
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::ImportModel, request, &operation), grpc::INVALID_ARGUMENT, "BAD_REQUEST_ID"));
}

TEST_F(ResourcesTest, ANameIsTakenFromTheStartOfItsImport) {
  google::longrunning::Operation operation;
  ASSERT_TRUE(ImportModel("base", &operation).ok());
  EXPECT_TRUE(Fails(ImportModel("base", &operation), grpc::ALREADY_EXISTS, "NAME_TAKEN"));
}

TEST_F(ResourcesTest, AStoredMessageThatCannotBeReadIsNamed) {
  // As damage to the database leaves it: the row is there, its message is none.
  const ResourceRow row{.kind = ResourceKind::kModel, .uid = NewUuid7(), .project = "default", .id = "damaged",
                        .name = "projects/default/models/damaged", .version = 1, .create_ms = 1, .payload = "\xff\xff\xff"};
  ASSERT_TRUE(server_->services().coordinator->Write({InsertResource{.row = row, .by_work = {}}}).ok());
  v1::GetModelRequest get;
  get.set_name(row.name);
  v1::Model model;
  v1::ListModelsRequest list;
  list.set_parent(kProject);
  v1::ListModelsResponse models;
  for (const grpc::Status& damaged : {Call(*models_, &v1::ModelService::Stub::GetModel, get, &model),
                                      Call(*models_, &v1::ModelService::Stub::ListModels, list, &models)}) {
    EXPECT_TRUE(Fails(damaged, grpc::DATA_LOSS, "STORED_MESSAGE_MALFORMED"));
    EXPECT_THAT(damaged.error_message(), ::testing::StartsWith(row.name + ": the stored model of 3 bytes cannot be read"));
    EXPECT_THAT(damaged.error_message(), ::testing::HasSubstr("backup"));
  }
}

TEST_F(ResourcesTest, OperationsAreReadWaitedForCancelledAndDeleted) {
  google::longrunning::Operation operation;
  ASSERT_TRUE(ImportModel("base", &operation).ok());
  EXPECT_FALSE(operation.done());
  EXPECT_THAT(operation.name(), ::testing::StartsWith("projects/default/operations/"));
  v1::ImportModelMetadata metadata;
  ASSERT_TRUE(operation.metadata().UnpackTo(&metadata));
  EXPECT_EQ(metadata.model(), "projects/default/models/base");

  google::longrunning::WaitOperationRequest wait;
  wait.set_name(operation.name());
  wait.mutable_timeout()->set_nanos(1000);
  google::longrunning::Operation waited;
  ASSERT_TRUE(Call(*operations_, &google::longrunning::Operations::Stub::WaitOperation, wait, &waited).ok());
  EXPECT_FALSE(waited.done());

  google::longrunning::DeleteOperationRequest remove;
  remove.set_name(operation.name());
  google::protobuf::Empty empty;
  EXPECT_TRUE(Fails(Call(*operations_, &google::longrunning::Operations::Stub::DeleteOperation, remove, &empty), grpc::FAILED_PRECONDITION,
                    "JOB_NOT_TERMINAL"));
  google::longrunning::CancelOperationRequest cancel;
  cancel.set_name(operation.name());
  ASSERT_TRUE(Call(*operations_, &google::longrunning::Operations::Stub::CancelOperation, cancel, &empty).ok());
  google::longrunning::GetOperationRequest get;
  get.set_name(operation.name());
  ASSERT_TRUE(Call(*operations_, &google::longrunning::Operations::Stub::GetOperation, get, &operation).ok());
  EXPECT_TRUE(operation.done());
  const google::rpc::Status& error = operation.error();
  EXPECT_TRUE(Fails(grpc::Status(static_cast<grpc::StatusCode>(error.code()), error.message(), error.SerializeAsString()), grpc::CANCELLED,
                    "OPERATION_CANCELLED"));
  EXPECT_EQ(error.message(), operation.name() + " was cancelled");
  google::longrunning::ListOperationsRequest list;
  list.set_name(kProject);
  google::longrunning::ListOperationsResponse listed;
  ASSERT_TRUE(Call(*operations_, &google::longrunning::Operations::Stub::ListOperations, list, &listed).ok());
  EXPECT_EQ(listed.operations_size(), 1);
  ASSERT_TRUE(Call(*operations_, &google::longrunning::Operations::Stub::DeleteOperation, remove, &empty).ok());
  EXPECT_TRUE(Fails(Call(*operations_, &google::longrunning::Operations::Stub::GetOperation, get, &operation), grpc::NOT_FOUND, "OPERATION_NOT_FOUND"));
  get.set_name("operations/" + NewUuid7());
  EXPECT_TRUE(Fails(Call(*operations_, &google::longrunning::Operations::Stub::GetOperation, get, &operation), grpc::INVALID_ARGUMENT,
                    "BAD_RESOURCE_NAME"));
  get.set_name("projects/default/operations/nonsense");
  EXPECT_TRUE(Fails(Call(*operations_, &google::longrunning::Operations::Stub::GetOperation, get, &operation), grpc::INVALID_ARGUMENT,
                    "BAD_RESOURCE_ID"));
  list.clear_name();
  EXPECT_TRUE(Fails(Call(*operations_, &google::longrunning::Operations::Stub::ListOperations, list, &listed), grpc::INVALID_ARGUMENT,
                    "BAD_RESOURCE_NAME"));
}

TEST_F(ResourcesTest, AnOperationOfAnotherProjectDoesNotExist) {
  google::longrunning::Operation operation;
  ASSERT_TRUE(ImportModel("base", &operation).ok());
  google::longrunning::GetOperationRequest get;
  get.set_name("projects/other/operations/" + operation.name().substr(operation.name().rfind('/') + 1));
  EXPECT_TRUE(Fails(Call(*operations_, &google::longrunning::Operations::Stub::GetOperation, get, &operation), grpc::NOT_FOUND,
                    "OPERATION_NOT_FOUND"));
}

TEST_F(ResourcesTest, ADataSetIsCheckedBeforeItIsStored) {
  v1::Dataset dataset;
  ASSERT_TRUE(CreateDataset("data", kGoodData, &dataset).ok());
  EXPECT_EQ(dataset.format(), v1::DATASET_FORMAT_PROMPT_COMPLETION);
  EXPECT_EQ(dataset.validation_report().samples(), 2);
  EXPECT_TRUE(Fails(CreateDataset("data", kGoodData, &dataset), grpc::ALREADY_EXISTS, "NAME_TAKEN"));

  const grpc::Status bad = CreateDataset("bad", std::string(kGoodData) + "{\"prompt\": 7}\nnot json\n", &dataset);
  EXPECT_TRUE(Fails(bad, grpc::INVALID_ARGUMENT, "INVALID_DATASET"));
  EXPECT_THAT(ViolatedFields(bad), ::testing::ElementsAre("upload", "upload"));
  EXPECT_THAT(FromGrpc(bad).violations()[0].description, HasSubstr("line 3, byte "));
  EXPECT_TRUE(Fails(CreateDataset("empty", "", &dataset), grpc::INVALID_ARGUMENT, "INVALID_DATASET"));
  v1::GetDatasetRequest get;
  get.set_name("projects/default/datasets/bad");
  EXPECT_TRUE(Fails(Call(*datasets_, &v1::DatasetService::Stub::GetDataset, get, &dataset), grpc::NOT_FOUND, "DATASET_NOT_FOUND"));
}

TEST_F(ResourcesTest, ARepeatedDataSetRequestReturnsTheFirstOne) {
  v1::CreateDatasetRequest request;
  request.set_parent(kProject);
  request.set_request_id(NewUuid4());
  request.set_upload(UploadBytes(kGoodData).name());
  v1::Dataset first, second;
  ASSERT_TRUE(Call(*datasets_, &v1::DatasetService::Stub::CreateDataset, request, &first).ok());
  ASSERT_TRUE(Call(*datasets_, &v1::DatasetService::Stub::CreateDataset, request, &second).ok());
  EXPECT_EQ(first.name(), second.name());
  request.set_dataset_id("other");
  EXPECT_TRUE(Fails(Call(*datasets_, &v1::DatasetService::Stub::CreateDataset, request, &second), grpc::ALREADY_EXISTS, "REQUEST_ID_REUSED"));
  request.set_request_id("");
  request.set_validate_only(true);
  ASSERT_TRUE(Call(*datasets_, &v1::DatasetService::Stub::CreateDataset, request, &second).ok());
  v1::GetDatasetRequest get;
  get.set_name("projects/default/datasets/other");
  EXPECT_TRUE(Fails(Call(*datasets_, &v1::DatasetService::Stub::GetDataset, get, &second), grpc::NOT_FOUND, "DATASET_NOT_FOUND"));
}

TEST_F(ResourcesTest, ListsComeInPagesBoundToTheirQuery) {
  for (const char* id : {"one", "two", "three"}) MakeDataset(id);
  v1::ListDatasetsRequest list;
  list.set_parent(kProject);
  list.set_page_size(2);
  v1::ListDatasetsResponse page;
  ASSERT_TRUE(Call(*datasets_, &v1::DatasetService::Stub::ListDatasets, list, &page).ok());
  ASSERT_EQ(page.datasets_size(), 2);
  EXPECT_EQ(page.datasets(0).name(), "projects/default/datasets/three");
  list.set_page_token(page.next_page_token());
  page.Clear();
  ASSERT_TRUE(Call(*datasets_, &v1::DatasetService::Stub::ListDatasets, list, &page).ok());
  ASSERT_EQ(page.datasets_size(), 1);
  EXPECT_TRUE(page.next_page_token().empty());

  list.set_parent("projects/other");
  EXPECT_TRUE(Fails(Call(*datasets_, &v1::DatasetService::Stub::ListDatasets, list, &page), grpc::INVALID_ARGUMENT, "BAD_PAGE_TOKEN"));
  list.set_page_token("junk");
  EXPECT_TRUE(Fails(Call(*datasets_, &v1::DatasetService::Stub::ListDatasets, list, &page), grpc::INVALID_ARGUMENT, "BAD_PAGE_TOKEN"));
  list.set_page_token("");
  list.set_page_size(-1);
  EXPECT_TRUE(Fails(Call(*datasets_, &v1::DatasetService::Stub::ListDatasets, list, &page), grpc::INVALID_ARGUMENT, "BAD_PAGE_SIZE"));
}

TEST_F(ResourcesTest, AnAdapterIsExportedMergedAndDeleted) {
  MakeModel("base");
  MakeDataset("data");
  v1::FineTuningJob job;
  ASSERT_TRUE(Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, GoodJob("first"), &job).ok());
  FinishJob("first");
  v1::GetAdapterRequest get;
  get.set_name("projects/default/adapters/first");
  v1::Adapter adapter;
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::GetAdapter, get, &adapter).ok());
  EXPECT_EQ(adapter.files_size(), 3);
  EXPECT_EQ(adapter.manifest_sha256(), adapter.files(2).sha256());

  v1::ExportAdapterRequest convert;
  convert.set_name(get.name());
  google::longrunning::Operation operation;
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation), grpc::INVALID_ARGUMENT, "BAD_EXPORT_FORMAT"));
  convert.set_format(static_cast<v1::ExportFormat>(99));
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation), grpc::INVALID_ARGUMENT, "BAD_EXPORT_FORMAT"));
  convert.set_format(v1::EXPORT_FORMAT_PEFT);
  convert.set_gguf_type(v1::GGUF_TYPE_F16);
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation), grpc::INVALID_ARGUMENT, "BAD_GGUF_TYPE"));
  convert.set_format(v1::EXPORT_FORMAT_GGUF);
  convert.set_gguf_type(static_cast<v1::GgufType>(9));
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation), grpc::INVALID_ARGUMENT, "BAD_GGUF_TYPE"));
  convert.clear_gguf_type();
  convert.set_format(v1::EXPORT_FORMAT_PEFT);
  convert.set_validate_only(true);
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation).ok());
  EXPECT_TRUE(operation.name().empty());
  v1::AdapterOperationMetadata checked;
  ASSERT_TRUE(operation.metadata().UnpackTo(&checked));
  EXPECT_EQ(checked.adapter(), get.name());
  convert.set_validate_only(false);
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation).ok());
  const worker::v1::Lease lease = NextLease();
  ASSERT_EQ(lease.resource(), operation.name());
  worker::v1::TaskResult result;
  result.mutable_files();
  ASSERT_TRUE(Commit(lease, result, {{"adapter_config.json", "{}"}}).ok());
  google::longrunning::WaitOperationRequest wait;
  wait.set_name(operation.name());
  ASSERT_TRUE(Call(*operations_, &google::longrunning::Operations::Stub::WaitOperation, wait, &operation).ok());
  v1::ExportAdapterResult files;
  ASSERT_TRUE(operation.response().UnpackTo(&files)) << operation.DebugString();
  EXPECT_EQ(files.files_size(), 1);

  convert.set_format(v1::EXPORT_FORMAT_GGUF);
  convert.set_gguf_type(v1::GGUF_TYPE_Q8_0);
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation).ok());
  const worker::v1::Lease gguf = NextLease();
  EXPECT_EQ(gguf.task().export_().gguf_type(), v1::GGUF_TYPE_Q8_0);
  EXPECT_EQ(gguf.task().export_().base_hash(), adapter.base_hash());
  ASSERT_EQ(gguf.task().inputs_size(), 2);
  EXPECT_EQ(gguf.task().inputs(1).name(), "model");
  ASSERT_TRUE(Commit(gguf, result, {{"model-q8_0.gguf", "GGUF"}}).ok());

  v1::MergeAdaptersRequest merge;
  merge.set_parent(kProject);
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::MergeAdapters, merge, &operation), grpc::INVALID_ARGUMENT, "FIELD_REQUIRED"));
  merge.add_adapters("first");
  merge.add_adapters("second");
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::MergeAdapters, merge, &operation), grpc::NOT_FOUND, "ADAPTER_NOT_FOUND"));
  merge.mutable_adapters()->RemoveLast();
  merge.set_validate_only(true);
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::MergeAdapters, merge, &operation).ok());
  EXPECT_TRUE(operation.name().empty());
  merge.set_validate_only(false);
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::MergeAdapters, merge, &operation).ok());
  // Its base is deleted, and another model takes the name.
  google::longrunning::CancelOperationRequest cancel;
  cancel.set_name(operation.name());
  google::protobuf::Empty empty;
  ASSERT_TRUE(Call(*operations_, &google::longrunning::Operations::Stub::CancelOperation, cancel, &empty).ok());
  v1::DeleteModelRequest remove_model;
  remove_model.set_name("projects/default/models/base");
  ASSERT_TRUE(Call(*models_, &v1::ModelService::Stub::DeleteModel, remove_model, &empty).ok());
  const auto merge_again = [&] { return Call(*adapters_, &v1::AdapterService::Stub::MergeAdapters, merge, &operation); };
  EXPECT_TRUE(Fails(merge_again(), grpc::NOT_FOUND, "MODEL_NOT_FOUND"));
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation), grpc::NOT_FOUND, "MODEL_NOT_FOUND"))
      << "GGUF holds the whole model";
  MakeModel("base", std::string(64, 'b'));
  EXPECT_TRUE(Fails(merge_again(), grpc::FAILED_PRECONDITION, "BASE_MISMATCH"));
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation), grpc::FAILED_PRECONDITION, "BASE_MISMATCH"));
  v1::CreateEvaluationJobRequest evaluate;
  evaluate.set_parent(kProject);
  evaluate.mutable_evaluation_job()->mutable_spec()->set_adapter("first");
  evaluate.mutable_evaluation_job()->mutable_spec()->set_dataset("data");
  v1::EvaluationJob evaluation;
  EXPECT_TRUE(Fails(Call(*evaluations_, &v1::EvaluationService::Stub::CreateEvaluationJob, evaluate, &evaluation),
                    grpc::FAILED_PRECONDITION, "BASE_MISMATCH"));
  convert.clear_gguf_type();
  convert.set_format(v1::EXPORT_FORMAT_PEFT);
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, convert, &operation).ok()) << "this needs no base";
  v1::DeleteAdapterRequest remove;
  remove.set_name(get.name());
  EXPECT_TRUE(Fails(Call(*adapters_, &v1::AdapterService::Stub::DeleteAdapter, remove, &empty), grpc::FAILED_PRECONDITION, "ADAPTER_IN_USE"));
}

TEST_F(ResourcesTest, AdminTellsOfServerAndWorkers) {
  v1::ServerInfo info;
  ASSERT_TRUE(Call(*admin_, &v1::AdminService::Stub::GetServerInfo, v1::GetServerInfoRequest(), &info).ok());
  EXPECT_EQ(info.address(), server_->address());
  EXPECT_EQ(info.store(), "sqlite");
  MakeModel("base");
  v1::ListWorkersResponse workers;
  ASSERT_TRUE(Call(*admin_, &v1::AdminService::Stub::ListWorkers, v1::ListWorkersRequest(), &workers).ok());
  ASSERT_EQ(workers.workers_size(), 1);
  EXPECT_EQ(workers.workers(0).name(), "workers/agent");
  EXPECT_EQ(workers.workers(0).slots_total(), 1);
  ASSERT_EQ(workers.workers(0).gpus_size(), 1);
  EXPECT_EQ(workers.workers(0).gpus(0), "Test GPU");
  v1::DrainWorkerRequest drain;
  drain.set_name("workers/agent");
  v1::Worker drained;
  ASSERT_TRUE(Call(*admin_, &v1::AdminService::Stub::DrainWorker, drain, &drained).ok());
  EXPECT_EQ(drained.state(), v1::Worker::STATE_DRAINING);
  drain.set_name("workers/nobody");
  EXPECT_TRUE(Fails(Call(*admin_, &v1::AdminService::Stub::DrainWorker, drain, &drained), grpc::NOT_FOUND, "WORKER_NOT_FOUND"));
  drain.set_name("nobody");
  EXPECT_TRUE(Fails(Call(*admin_, &v1::AdminService::Stub::DrainWorker, drain, &drained), grpc::INVALID_ARGUMENT, "BAD_RESOURCE_NAME"));
}

TEST_F(ResourcesTest, OnlySoManyCallsMayWait) {
  google::longrunning::Operation operation;
  ASSERT_TRUE(ImportModel("base", &operation).ok());
  google::longrunning::WaitOperationRequest request;
  request.set_name(operation.name());
  request.mutable_timeout()->set_nanos(1);
  using Operations = google::longrunning::Operations::Stub;
  EXPECT_TRUE(Call(*operations_, &Operations::WaitOperation, request, &operation).ok());
  server_->services().waiting_calls->store(128);
  EXPECT_TRUE(Fails(Call(*operations_, &Operations::WaitOperation, request, &operation), grpc::RESOURCE_EXHAUSTED, "TOO_MANY_WAITING_CALLS"));
  server_->services().waiting_calls->store(0);
  EXPECT_TRUE(Call(*operations_, &Operations::WaitOperation, request, &operation).ok());
}

TEST_F(ResourcesTest, ASecondServerLeavesTheFirstOnesFilesAlone) {
  const std::filesystem::path file = server_->services().temp_directory / "in-use";
  ASSERT_TRUE(WriteFileAtomic(file, "x").ok());
  config::v1::ServerConfig config;
  config.set_listen("127.0.0.1:0");
  config.set_http_listen("127.0.0.1:0");
  config.set_data_dir((directory_.path() / "data").string());
  FillDefaults(config);
  EXPECT_EQ(SboraServer::Start(config).status().reason(), "STORE_LOCKED");
  EXPECT_TRUE(std::filesystem::exists(file));
}

}  // namespace
}  // namespace sbora::server
