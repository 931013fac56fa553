// FineTuningService.
#include "server/services/job_planner.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using Stub = v1::FineTuningService::Stub;

class JobsTest : public ContractTest {
 protected:
  void SetUp() override {
    ContractTest::SetUp();
    MakeModel("base");
    MakeDataset("data");
  }
  grpc::Status Create(const v1::CreateFineTuningJobRequest& request) { return Call(*jobs_, &Stub::CreateFineTuningJob, request, &job_); }

  v1::FineTuningJob job_;
};

TEST_F(JobsTest, AJobRunsToItsAdapterAndTellsEverythingInOrder) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  EXPECT_EQ(job_.state(), v1::FineTuningJob::STATE_VALIDATING);
  EXPECT_EQ(job_.spec().model(), "projects/default/models/base");
  EXPECT_EQ(job_.spec().adapter().alpha(), 8);
  EXPECT_GT(job_.trainable_parameters(), 0);
  FinishJob("first");
  const v1::FineTuningJob done = GetJob("first");
  EXPECT_EQ(done.state(), v1::FineTuningJob::STATE_SUCCEEDED);
  EXPECT_EQ(done.adapter(), "projects/default/adapters/first");
  EXPECT_EQ(done.progress().step(), 2);

  v1::WatchFineTuningJobRequest watch;
  watch.set_name(done.name());
  grpc::ClientContext context;
  Prepare(context);
  const auto reader = jobs_->WatchFineTuningJob(&context, watch);
  v1::WatchFineTuningJobResponse response;
  int64_t last = 0;
  bool succeeded = false;
  while (reader->Read(&response)) {
    EXPECT_GT(response.sequence(), last) << response.DebugString();
    last = response.sequence();
    succeeded = succeeded || (response.has_job() && response.job().state() == v1::FineTuningJob::STATE_SUCCEEDED);
    EXPECT_EQ(response.has_job(), response.has_change()) << response.DebugString();
    if (response.has_change()) {
      EXPECT_EQ(response.change().type(), "STATE_CHANGED");
      EXPECT_EQ(response.change().sequence(), response.sequence());
    }
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_TRUE(succeeded);
  v1::ListFineTuningEventsRequest list;
  list.set_parent(done.name());
  list.set_page_size(2);
  v1::ListFineTuningEventsResponse events;
  ASSERT_TRUE(Call(*jobs_, &Stub::ListFineTuningEvents, list, &events).ok());
  EXPECT_EQ(events.events_size(), 2);
  EXPECT_FALSE(events.next_page_token().empty());
}

TEST_F(JobsTest, IndicesAreDrawnOnceAndInRange) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  const worker::v1::Lease lease = NextLease();
  ASSERT_EQ(lease.task().train().indices_size(), 5);
  for (const auto& module : lease.task().train().indices()) {
    ASSERT_EQ(module.indices_size(), 4) << module.module();
    for (int i = 1; i < 4; ++i) EXPECT_LT(module.indices(i - 1), module.indices(i));
  }
}

TEST_F(JobsTest, MetricsAndCheckpointsOfTheAgentAreListed) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  const worker::v1::Lease lease = NextLease();
  worker::v1::AttemptReport& report = attempts_[lease.id().uid()];
  report.mutable_running()->set_device("cpu");
  worker::v1::ReportItem& metric = *report.add_items();
  metric.set_sequence(1);
  metric.mutable_metric()->set_step(1);
  metric.mutable_metric()->set_attempt(1);
  metric.mutable_metric()->set_loss(2.5);
  worker::v1::ReportItem& checkpoint = *report.add_items();
  checkpoint.set_sequence(2);
  checkpoint.mutable_checkpoint()->set_step(1);
  *checkpoint.mutable_checkpoint()->add_files() = FileOf("state.safetensors", "state");
  Sync([&](const worker::v1::SynchronizeResponse& answer) { return answer.renewed_size() > 0 && answer.renewed(0).acknowledged_item() == 2; });

  const std::string name = GetJob("first").name();
  v1::ListFineTuningMetricsRequest metrics_request;
  metrics_request.set_parent(name);
  v1::ListFineTuningMetricsResponse metrics;
  ASSERT_TRUE(Call(*jobs_, &Stub::ListFineTuningMetrics, metrics_request, &metrics).ok());
  ASSERT_EQ(metrics.metrics_size(), 1);
  EXPECT_DOUBLE_EQ(metrics.metrics(0).loss(), 2.5);
  v1::ListFineTuningCheckpointsRequest checkpoints_request;
  checkpoints_request.set_parent(name);
  v1::ListFineTuningCheckpointsResponse checkpoints;
  ASSERT_TRUE(Call(*jobs_, &Stub::ListFineTuningCheckpoints, checkpoints_request, &checkpoints).ok());
  ASSERT_EQ(checkpoints.checkpoints_size(), 1);
  EXPECT_EQ(checkpoints.checkpoints(0).name(), name + "/checkpoints/1");
}

TEST_F(JobsTest, AllProblemsOfASpecComeAtOnce) {
  v1::CreateFineTuningJobRequest request = GoodJob("first");
  v1::FineTuningSpec& spec = *request.mutable_fine_tuning_job()->mutable_spec();
  spec.mutable_adapter()->set_dropout(1.5);
  spec.mutable_adapter()->set_rank(-1);
  spec.mutable_adapter()->add_target_modules("embed");
  spec.mutable_training()->set_learning_rate(-1);
  const grpc::Status bad = Create(request);
  EXPECT_TRUE(Fails(bad, grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
  EXPECT_THAT(ViolatedFields(bad), ::testing::IsSupersetOf({"fine_tuning_job.spec.adapter.dropout", "fine_tuning_job.spec.adapter.rank",
                                                            "fine_tuning_job.spec.adapter.target_modules",
                                                            "fine_tuning_job.spec.training.learning_rate"}));
}

TEST_F(JobsTest, RankAndCutoffAreHeldAgainstTheModel) {
  v1::CreateFineTuningJobRequest request = GoodJob("first");
  request.mutable_fine_tuning_job()->mutable_spec()->mutable_adapter()->set_rank(17);  // the widths are 16
  request.mutable_fine_tuning_job()->mutable_spec()->mutable_data()->set_cutoff_tokens(257);  // the context is 256
  const grpc::Status bad = Create(request);
  EXPECT_TRUE(Fails(bad, grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
  EXPECT_THAT(ViolatedFields(bad), ::testing::IsSupersetOf({"fine_tuning_job.spec.adapter.rank", "fine_tuning_job.spec.data.cutoff_tokens"}));
}

TEST_F(JobsTest, MissingThingsAndLaterFeaturesAreNamed) {
  v1::CreateFineTuningJobRequest request = GoodJob("first");
  request.mutable_fine_tuning_job()->mutable_spec()->set_model("missing");
  EXPECT_TRUE(Fails(Create(request), grpc::NOT_FOUND, "MODEL_NOT_FOUND"));
  request.mutable_fine_tuning_job()->mutable_spec()->set_model("projects/other/models/base");
  const grpc::Status elsewhere = Create(request);
  EXPECT_TRUE(Fails(elsewhere, grpc::INVALID_ARGUMENT, "OTHER_PROJECT"));
  EXPECT_THAT(ViolatedFields(elsewhere), ::testing::ElementsAre("fine_tuning_job.spec.model"));
  request = GoodJob("first");
  request.mutable_fine_tuning_job()->mutable_spec()->set_dataset("missing");
  EXPECT_TRUE(Fails(Create(request), grpc::NOT_FOUND, "DATASET_NOT_FOUND"));
  request = GoodJob("first");
  request.mutable_fine_tuning_job()->mutable_spec()->mutable_adapter()->set_method(v1::METHOD_FULL);
  request.mutable_fine_tuning_job()->mutable_spec()->set_quantization(v1::QUANTIZATION_NF4);
  EXPECT_TRUE(Fails(Create(request), grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
  request = GoodJob("first");
  request.mutable_fine_tuning_job()->mutable_spec()->mutable_resources()->set_device(v1::DEVICE_CUDA);
  EXPECT_TRUE(Create(request).ok());
  request = GoodJob("second");
  request.mutable_fine_tuning_job()->mutable_spec()->mutable_resources()->set_compute_dtype(v1::COMPUTE_DTYPE_BFLOAT16);
  const grpc::Status on_cpu = Create(request);
  EXPECT_TRUE(Fails(on_cpu, grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
  EXPECT_THAT(ViolatedFields(on_cpu), ::testing::ElementsAre("fine_tuning_job.spec.resources.compute_dtype"));
  EXPECT_THAT(on_cpu.error_message(), ::testing::HasSubstr("needs DEVICE_CUDA"));
  request.clear_fine_tuning_job();
  EXPECT_TRUE(Fails(Create(request), grpc::INVALID_ARGUMENT, "FIELD_REQUIRED"));
}

TEST_F(JobsTest, ARepeatIsAnsweredAlsoWhenWhatItRefersToIsGone) {
  v1::CreateFineTuningJobRequest train = GoodJob("first");
  train.set_request_id(NewUuid4());
  ASSERT_TRUE(Create(train).ok());
  const std::string job = job_.uid();
  FinishJob("first");
  v1::CreateEvaluationJobRequest evaluate;
  evaluate.set_parent(kProject);
  evaluate.mutable_evaluation_job()->mutable_spec()->set_adapter("first");
  evaluate.mutable_evaluation_job()->mutable_spec()->set_dataset("data");
  evaluate.set_request_id(NewUuid4());
  v1::EvaluationJob evaluation, evaluated_again;
  ASSERT_TRUE(Call(*evaluations_, &v1::EvaluationService::Stub::CreateEvaluationJob, evaluate, &evaluation).ok());
  v1::MergeAdaptersRequest merge;
  merge.set_parent(kProject);
  merge.add_adapters("first");
  merge.set_request_id(NewUuid4());
  google::longrunning::Operation merged, merged_again, exported, exported_again;
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::MergeAdapters, merge, &merged).ok());
  v1::ExportAdapterRequest export_request;
  export_request.set_name("projects/default/adapters/first");
  export_request.set_format(v1::EXPORT_FORMAT_PEFT);
  export_request.set_request_id(NewUuid4());
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, export_request, &exported).ok());
  google::protobuf::Empty empty;
  v1::CancelEvaluationJobRequest cancel;
  cancel.set_name(evaluation.name());
  ASSERT_TRUE(Call(*evaluations_, &v1::EvaluationService::Stub::CancelEvaluationJob, cancel, &evaluated_again).ok());
  for (const std::string& name : {merged.name(), exported.name()}) {
    google::longrunning::CancelOperationRequest request;
    request.set_name(name);
    ASSERT_TRUE(Call(*operations_, &google::longrunning::Operations::Stub::CancelOperation, request, &empty).ok());
  }
  v1::DeleteAdapterRequest adapter;
  adapter.set_name("projects/default/adapters/first");
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::DeleteAdapter, adapter, &empty).ok());
  v1::DeleteDatasetRequest dataset;
  dataset.set_name("projects/default/datasets/data");
  ASSERT_TRUE(Call(*datasets_, &v1::DatasetService::Stub::DeleteDataset, dataset, &empty).ok());

  ASSERT_TRUE(Create(train).ok());
  EXPECT_EQ(job_.uid(), job);
  ASSERT_TRUE(Call(*evaluations_, &v1::EvaluationService::Stub::CreateEvaluationJob, evaluate, &evaluated_again).ok());
  EXPECT_EQ(evaluated_again.uid(), evaluation.uid());
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::MergeAdapters, merge, &merged_again).ok());
  EXPECT_EQ(merged_again.name(), merged.name());
  ASSERT_TRUE(Call(*adapters_, &v1::AdapterService::Stub::ExportAdapter, export_request, &exported_again).ok());
  EXPECT_EQ(exported_again.name(), exported.name());
}

TEST_F(JobsTest, ARepeatIsTheSameJobAndAnotherRequestIsNot) {
  v1::CreateFineTuningJobRequest request = GoodJob("");
  request.set_request_id(NewUuid4());
  ASSERT_TRUE(Create(request).ok());
  const std::string name = job_.name();
  ASSERT_TRUE(Create(request).ok());
  EXPECT_EQ(job_.name(), name);
  request.mutable_fine_tuning_job()->set_display_name("other");
  EXPECT_TRUE(Fails(Create(request), grpc::ALREADY_EXISTS, "REQUEST_ID_REUSED"));
}

TEST_F(JobsTest, ValidateOnlyStoresNothing) {
  v1::CreateFineTuningJobRequest request = GoodJob("first");
  request.set_validate_only(true);
  ASSERT_TRUE(Create(request).ok());
  EXPECT_EQ(job_.name(), "projects/default/fineTuningJobs/first");
  v1::ListFineTuningJobsRequest list;
  list.set_parent(kProject);
  v1::ListFineTuningJobsResponse jobs;
  ASSERT_TRUE(Call(*jobs_, &Stub::ListFineTuningJobs, list, &jobs).ok());
  EXPECT_EQ(jobs.fine_tuning_jobs_size(), 0);
}

TEST_F(JobsTest, DataThatDoesNotFitFailsTheJobWithItsReason) {
  v1::Dataset dataset;
  ASSERT_TRUE(CreateDataset("long", "{\"prompt\": \"Q: the the the the the\", \"completion\": \" abc\"}\n", &dataset).ok());
  v1::CreateFineTuningJobRequest request = GoodJob("first");
  request.mutable_fine_tuning_job()->mutable_spec()->set_dataset("long");
  v1::DataSpec& data = *request.mutable_fine_tuning_job()->mutable_spec()->mutable_data();
  data.set_cutoff_tokens(8);
  data.set_cutoff_policy(v1::CUTOFF_POLICY_REJECT);
  request.set_validate_only(true);
  EXPECT_TRUE(Fails(Create(request), grpc::INVALID_ARGUMENT, "SAMPLE_TOO_LONG")) << "told without a job";
  request.set_validate_only(false);
  ASSERT_TRUE(Create(request).ok());
  WaitForState("first", v1::FineTuningJob::STATE_FAILED);
  EXPECT_EQ(GetJob("first").failure().reason(), "SAMPLE_TOO_LONG");
  EXPECT_NE(GetJob("first").failure().message().find("line 1, byte 0"), std::string::npos) << GetJob("first").failure().message();
  EXPECT_EQ(GetJob("first").termination_reason(), v1::TERMINATION_REASON_INVALID_INPUT);
}

TEST_F(JobsTest, WhatTheDataHoldsIsAnEventOfTheJob) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  v1::ListFineTuningEventsRequest request;
  request.set_parent(GetJob("first").name());
  v1::ListFineTuningEventsResponse events;
  ASSERT_TRUE(Call(*jobs_, &Stub::ListFineTuningEvents, request, &events).ok());
  const auto found = std::find_if(events.events().begin(), events.events().end(),
                                  [](const v1::FineTuningEvent& event) { return event.type() == "DATA_CHECKED"; });
  ASSERT_NE(found, events.events().end());
  EXPECT_NE(found->message().find("training samples"), std::string::npos) << found->message();
  EXPECT_NE(found->message().find("[["), std::string::npos) << "no decoded example: " << found->message();
}

TEST_F(JobsTest, AMixtureIsCheckedToldAndHandedToTheWorker) {
  MakeDataset("more");
  v1::CreateFineTuningJobRequest request = GoodJob("first");
  v1::FineTuningSpec& spec = *request.mutable_fine_tuning_job()->mutable_spec();
  spec.clear_dataset();
  spec.add_datasets("data");
  spec.add_datasets("projects/default/datasets/data");
  const grpc::Status twice = Create(request);
  EXPECT_TRUE(Fails(twice, grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
  EXPECT_THAT(ViolatedFields(twice), ::testing::ElementsAre("fine_tuning_job.spec.datasets"));
  spec.set_datasets(1, "missing");
  EXPECT_TRUE(Fails(Create(request), grpc::NOT_FOUND, "DATASET_NOT_FOUND"));
  spec.set_datasets(1, "more");
  spec.add_dataset_weights(1);
  spec.add_dataset_weights(1e-6);
  spec.mutable_training()->set_epoch_samples(10);
  request.set_validate_only(true);
  EXPECT_TRUE(Fails(Create(request), grpc::INVALID_ARGUMENT, "MIXTURE_PART_UNSEEN"));
  spec.set_dataset_weights(1, 0.25);
  request.set_validate_only(false);
  ASSERT_TRUE(Create(request).ok());
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  EXPECT_EQ(GetJob("first").spec().datasets(1), "projects/default/datasets/more");
  v1::ListFineTuningEventsRequest list;
  list.set_parent(GetJob("first").name());
  v1::ListFineTuningEventsResponse events;
  ASSERT_TRUE(Call(*jobs_, &Stub::ListFineTuningEvents, list, &events).ok());
  const auto found = std::find_if(events.events().begin(), events.events().end(),
                                  [](const v1::FineTuningEvent& event) { return event.type() == "DATA_CHECKED"; });
  ASSERT_NE(found, events.events().end());
  EXPECT_THAT(found->message(), ::testing::ContainsRegex("datasets/data: .* 8 drawn in each epoch; .*datasets/more: .* 2 drawn"));
  google::protobuf::Empty empty;
  v1::DeleteDatasetRequest remove;
  remove.set_name("projects/default/datasets/more");
  EXPECT_TRUE(Fails(Call(*datasets_, &v1::DatasetService::Stub::DeleteDataset, remove, &empty), grpc::FAILED_PRECONDITION, "DATASET_IN_USE"));
  const worker::v1::Lease lease = NextLease();
  std::vector<std::string> groups;
  for (const auto& group : lease.task().inputs()) groups.push_back(group.name());
  EXPECT_THAT(groups, ::testing::ElementsAre("model", "dataset-0", "dataset-1"));
  EXPECT_EQ(lease.task().train().mixture_formats_size(), 2);
}

TEST_F(JobsTest, CancelPauseResumeAndDeleteFollowTheState) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  const std::string name = GetJob("first").name();
  google::protobuf::Empty empty;
  v1::DeleteFineTuningJobRequest remove;
  remove.set_name(name);
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::DeleteFineTuningJob, remove, &empty), grpc::FAILED_PRECONDITION, "JOB_NOT_TERMINAL"));
  v1::ResumeFineTuningJobRequest resume;
  resume.set_name(name);
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::ResumeFineTuningJob, resume, &job_), grpc::FAILED_PRECONDITION, "JOB_NOT_PAUSED"));
  v1::PauseFineTuningJobRequest pause;
  pause.set_name(name);
  pause.set_etag("v1");
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::PauseFineTuningJob, pause, &job_), grpc::ABORTED, "ETAG_MISMATCH"));
  pause.set_etag(GetJob("first").etag());
  ASSERT_TRUE(Call(*jobs_, &Stub::PauseFineTuningJob, pause, &job_).ok());
  EXPECT_EQ(job_.state(), v1::FineTuningJob::STATE_PAUSED);
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::PauseFineTuningJob, pause, &job_), grpc::ABORTED, "ETAG_MISMATCH")) << "PAUSED by now";
  pause.clear_etag();
  ASSERT_TRUE(Call(*jobs_, &Stub::ResumeFineTuningJob, resume, &job_).ok());
  v1::CancelFineTuningJobRequest cancel;
  cancel.set_name(name);
  ASSERT_TRUE(Call(*jobs_, &Stub::CancelFineTuningJob, cancel, &job_).ok());
  EXPECT_EQ(job_.state(), v1::FineTuningJob::STATE_CANCELLED);
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::PauseFineTuningJob, pause, &job_), grpc::FAILED_PRECONDITION, "JOB_ENDED"));
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::CancelFineTuningJob, cancel, &job_), grpc::FAILED_PRECONDITION, "JOB_ENDED"));
  ASSERT_TRUE(Call(*jobs_, &Stub::DeleteFineTuningJob, remove, &empty).ok());
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::DeleteFineTuningJob, remove, &empty), grpc::NOT_FOUND, "JOB_NOT_FOUND"));
}

TEST_F(JobsTest, WhatAJobUsesStays) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  google::protobuf::Empty empty;
  v1::DeleteModelRequest model;
  model.set_name("projects/default/models/base");
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::DeleteModel, model, &empty), grpc::FAILED_PRECONDITION, "MODEL_IN_USE"));
  v1::DeleteDatasetRequest dataset;
  dataset.set_name("projects/default/datasets/data");
  EXPECT_TRUE(Fails(Call(*datasets_, &v1::DatasetService::Stub::DeleteDataset, dataset, &empty), grpc::FAILED_PRECONDITION, "DATASET_IN_USE"));
}

TEST_F(JobsTest, ListsAreFilteredByState) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  v1::ListFineTuningJobsRequest list;
  list.set_parent(kProject);
  v1::ListFineTuningJobsResponse jobs;
  list.set_filter("state = STARTING OR state = QUEUED");
  ASSERT_TRUE(Call(*jobs_, &Stub::ListFineTuningJobs, list, &jobs).ok());
  EXPECT_EQ(jobs.fine_tuning_jobs_size(), 1);
  list.set_filter("state = FAILED");
  ASSERT_TRUE(Call(*jobs_, &Stub::ListFineTuningJobs, list, &jobs).ok());
  EXPECT_EQ(jobs.fine_tuning_jobs_size(), 0);
  for (const char* filter : {"state", "name = x", "state = NONSENSE", "state = RUNNING AND state = QUEUED", "state = RUNNING OR"}) {
    list.set_filter(filter);
    EXPECT_TRUE(Fails(Call(*jobs_, &Stub::ListFineTuningJobs, list, &jobs), grpc::UNIMPLEMENTED, "FILTER_NOT_SUPPORTED")) << filter;
  }
}

TEST_F(JobsTest, WatchRefusesWhatIsNotThere) {
  v1::WatchFineTuningJobRequest watch;
  watch.set_name("projects/default/fineTuningJobs/missing");
  grpc::ClientContext context;
  Prepare(context);
  v1::WatchFineTuningJobResponse response;
  const auto reader = jobs_->WatchFineTuningJob(&context, watch);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(Fails(reader->Finish(), grpc::NOT_FOUND, "JOB_NOT_FOUND"));
}

TEST_F(JobsTest, EstimatesNeedNoDataSet) {
  v1::EstimateFineTuningJobRequest request;
  request.set_parent(kProject);
  request.mutable_spec()->set_model("base");
  request.mutable_spec()->mutable_adapter()->set_rank(4);
  v1::EstimateFineTuningJobResponse response;
  ASSERT_TRUE(Call(*jobs_, &Stub::EstimateFineTuningJob, request, &response).ok());
  EXPECT_EQ(response.trainable_parameters(), 5 * 16 * 4);
  EXPECT_EQ(response.modules_size(), 5);
  EXPECT_GT(response.artifact_bytes(), 0);
  // q, one token: 16 x 16 frozen and 16 x 4 of the adapter.
  EXPECT_EQ(response.modules(0).multiplications(), 16 * 16 + 16 * 4);
  EXPECT_GT(response.memory().activation_bytes(), 0);
  EXPECT_GT(response.memory().error_percent(), 0);
  EXPECT_FALSE(response.has_time());
  EXPECT_THAT(response.notes(), ::testing::Contains(::testing::HasSubstr("no time estimate: no worker has been measured")));
  request.mutable_spec()->mutable_resources()->set_ranks(2);
  v1::EstimateFineTuningJobResponse of_two;
  ASSERT_TRUE(Call(*jobs_, &Stub::EstimateFineTuningJob, request, &of_two).ok());
  EXPECT_EQ(of_two.memory().peak_bytes(), response.memory().peak_bytes());
  EXPECT_THAT(of_two.notes(), ::testing::Contains(::testing::HasSubstr("the memory is that of one rank; all 2 run on one")));
  request.mutable_spec()->mutable_resources()->clear_ranks();
  const auto estimate = [&](const std::string& config) {
    request.set_model_config_json(config);
    const grpc::Status bad = Call(*jobs_, &Stub::EstimateFineTuningJob, request, &response);
    EXPECT_TRUE(Fails(bad, grpc::INVALID_ARGUMENT, "CONFIG_MALFORMED"));
    return ViolatedFields(bad);
  };
  EXPECT_THAT(estimate("{"), ::testing::ElementsAre("model_config_json"));
  const std::string deep = std::string(500'000, '[') + std::string(500'000, ']');
  EXPECT_THAT(estimate(R"({"model_type": "llama", "sliding_window": )" + deep + "}"),
              ::testing::ElementsAre("model_config_json"));
  EXPECT_THAT(estimate(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": -1})"),
              ::testing::ElementsAre("model_config_json.hidden_size"));
}

TEST_F(JobsTest, EstimatesTakeWhatCannotBeTrainedYet) {
  v1::EstimateFineTuningJobRequest request;
  request.set_parent(kProject);
  request.mutable_spec()->set_model("base");
  request.mutable_spec()->mutable_adapter()->set_rank(4);
  request.mutable_spec()->set_quantization(v1::QUANTIZATION_NF4);
  v1::EstimateFineTuningJobResponse response;
  for (const auto& [method, parameters] : {std::pair{v1::METHOD_LORA, 5 * 2 * 16 * 4}, {v1::METHOD_DORA, 5 * (2 * 16 * 4 + 16)}}) {
    request.mutable_spec()->mutable_adapter()->set_method(method);
    ASSERT_TRUE(Call(*jobs_, &Stub::EstimateFineTuningJob, request, &response).ok());
    EXPECT_EQ(response.trainable_parameters(), parameters);
    EXPECT_EQ(response.memory().error_percent(), 0);  // never measured
  }
  request.mutable_spec()->mutable_adapter()->set_method(v1::METHOD_FULL);
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::EstimateFineTuningJob, request, &response), grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
  request.mutable_spec()->set_quantization(v1::QUANTIZATION_NONE);
  ASSERT_TRUE(Call(*jobs_, &Stub::EstimateFineTuningJob, request, &response).ok());
  EXPECT_EQ(response.modules_size(), 7);
  request.set_tokens_per_sample(1e9);
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::EstimateFineTuningJob, request, &response), grpc::INVALID_ARGUMENT, "INVALID_ESTIMATE"));
  request.set_tokens_per_sample(0);
  request.set_supervised_share(1.5);
  EXPECT_TRUE(Fails(Call(*jobs_, &Stub::EstimateFineTuningJob, request, &response), grpc::INVALID_ARGUMENT, "INVALID_ESTIMATE"));
}

TEST_F(JobsTest, AFinishedJobIsTheMeasureOfTime) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  FinishJob("first");
  v1::EstimateFineTuningJobRequest request;
  request.set_parent(kProject);
  *request.mutable_spec() = GetJob("first").spec();
  const auto& training = request.spec().training();
  // The same load as the finished job's: 123 tokens in two steps and two seconds, a quarter supervised.
  request.set_tokens_per_sample(123.0 / 2 / training.batch_size());
  request.set_supervised_share(0.25);
  v1::EstimateFineTuningJobResponse response;
  ASSERT_TRUE(Call(*jobs_, &Stub::EstimateFineTuningJob, request, &response).ok());
  ASSERT_TRUE(response.has_time());
  EXPECT_EQ(response.time().measured_by(), std::string(kProject) + "/fineTuningJobs/first");
  // Tokens of a micro-batch are rounded up to whole ones.
  EXPECT_NEAR(response.time().seconds_per_step(), 1.0, 0.15);
  EXPECT_GT(response.time().steps(), 0);
  EXPECT_GT(response.time().error_percent(), 0);
  // A model of another size is not compared with.
  request.set_model_config_json(R"({"model_type":"llama","hidden_size":256,"num_hidden_layers":8,"num_attention_heads":4,"intermediate_size":512,"vocab_size":128,"max_position_embeddings":512})");
  ASSERT_TRUE(Call(*jobs_, &Stub::EstimateFineTuningJob, request, &response).ok());
  EXPECT_FALSE(response.has_time());
}

TEST_F(JobsTest, AcceptedJobsOutliveTheServer) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  StopServer();
  StartServer();
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
}

TEST_F(JobsTest, ValidationIsTakenUpAgainAfterARestart) {
  // As after a kill between the commit and the check: accepted, and no validator knows of it.
  StatusOr<PlannedJob> planned = PlanFineTuning(server_->services(), GoodJob("first"));
  ASSERT_TRUE(planned.ok()) << planned.status();
  ASSERT_TRUE(server_->services().coordinator->Submit(std::move(planned->submit)).ok());
  EXPECT_EQ(GetJob("first").state(), v1::FineTuningJob::STATE_VALIDATING);
  StopServer();
  StartServer();
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
}

}  // namespace
}  // namespace sbora::server
