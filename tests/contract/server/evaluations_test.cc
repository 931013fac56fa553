// Evaluations and generation.
#include <set>
#include <thread>

#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using ::testing::HasSubstr;

class EvaluationsTest : public ContractTest {};

TEST_F(EvaluationsTest, AListOfLargeEvaluationsFitsIntoItsMessages) {
  MakeModel("base");
  MakeDataset("data");
  v1::CreateEvaluationJobRequest request;
  request.set_parent(kProject);
  request.mutable_evaluation_job()->mutable_spec()->set_model("base");
  request.mutable_evaluation_job()->mutable_spec()->set_dataset("data");
  worker::v1::TaskResult result;
  for (int i = 0; i < 20; ++i) {
    v1::EvaluationExample& example = *result.mutable_evaluate()->add_examples();
    example.set_prompt(std::string(50'000, 'p'));
    example.set_reference(std::string(50'000, 'r'));
    example.set_output("é" + std::string(50'000, 'o'));
  }
  std::set<std::string> made;
  for (int i = 0; i < 10; ++i) {
    v1::EvaluationJob job;
    ASSERT_TRUE(Call(*evaluations_, &v1::EvaluationService::Stub::CreateEvaluationJob, request, &job).ok());
    made.insert(job.name());
    ASSERT_TRUE(Commit(NextLease(), result, {{"examples.jsonl", "{}\n"}}).ok());
  }
  v1::ListEvaluationJobsRequest list;
  list.set_parent(kProject);
  list.set_page_size(1000);
  std::set<std::string> listed;
  int pages = 0;
  do {
    v1::ListEvaluationJobsResponse page;
    const grpc::Status status = Call(*evaluations_, &v1::EvaluationService::Stub::ListEvaluationJobs, list, &page);
    ASSERT_TRUE(status.ok()) << FromGrpc(status);
    ASSERT_GT(page.evaluation_jobs_size(), 0);
    for (const v1::EvaluationJob& job : page.evaluation_jobs()) {
      EXPECT_TRUE(listed.insert(job.name()).second) << job.name();
      ASSERT_EQ(job.result().examples_size(), 20);
      EXPECT_EQ(job.result().examples(0).output().size(), 8192U);
    }
    list.set_page_token(page.next_page_token());
    ++pages;
  } while (!list.page_token().empty());
  EXPECT_EQ(listed, made);
  EXPECT_GT(pages, 1) << "4.8 MB in all";
}

TEST_F(EvaluationsTest, PromptsThatNoMessageCarriesAreRefused) {
  MakeModel("base");
  v1::GenerateRequest request;
  request.set_parent(kProject);
  request.set_model("base");
  for (int i = 0; i < 40; ++i) request.add_prompts(std::string(60'000, 'x'));
  v1::GenerateResponse response;
  const grpc::Status status = Call(*evaluations_, &v1::EvaluationService::Stub::Generate, request, &response);
  EXPECT_TRUE(Fails(status, grpc::INVALID_ARGUMENT, "INVALID_REQUEST"));
  EXPECT_THAT(ViolatedFields(status), ::testing::ElementsAre("prompts"));
}

TEST_F(EvaluationsTest, EvaluationsAreCheckedRunAndRead) {
  MakeModel("base");
  MakeDataset("data");
  v1::CreateEvaluationJobRequest request;
  request.set_parent(kProject);
  request.set_evaluation_job_id("check");
  v1::EvaluationSpec& spec = *request.mutable_evaluation_job()->mutable_spec();
  spec.set_max_samples(-1);
  spec.mutable_generation()->set_top_p(2);
  v1::EvaluationJob job;
  const grpc::Status bad = Call(*evaluations_, &v1::EvaluationService::Stub::CreateEvaluationJob, request, &job);
  EXPECT_TRUE(Fails(bad, grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
  EXPECT_EQ(ViolatedFields(bad).size(), 4U);
  spec.Clear();
  spec.set_model("base");
  spec.set_dataset("missing");
  EXPECT_TRUE(Fails(Call(*evaluations_, &v1::EvaluationService::Stub::CreateEvaluationJob, request, &job), grpc::NOT_FOUND, "DATASET_NOT_FOUND"));
  spec.set_dataset("data");
  ASSERT_TRUE(Call(*evaluations_, &v1::EvaluationService::Stub::CreateEvaluationJob, request, &job).ok());
  EXPECT_EQ(job.state(), v1::EvaluationJob::STATE_QUEUED);
  const std::string queued_etag = job.etag();

  const worker::v1::Lease lease = NextLease();
  worker::v1::TaskResult result;
  result.mutable_evaluate()->set_samples(2);
  result.mutable_evaluate()->set_exact_matches(1);
  ASSERT_TRUE(Commit(lease, result, {{"examples.jsonl", "{}\n"}}).ok());
  v1::GetEvaluationJobRequest get;
  get.set_name(job.name());
  ASSERT_TRUE(Call(*evaluations_, &v1::EvaluationService::Stub::GetEvaluationJob, get, &job).ok());
  EXPECT_EQ(job.state(), v1::EvaluationJob::STATE_SUCCEEDED);
  EXPECT_EQ(job.result().exact_matches(), 1);
  EXPECT_FALSE(job.result().examples_file().object().empty());
  const std::string ended_etag = job.etag();
  v1::CancelEvaluationJobRequest cancel;
  cancel.set_name(job.name());
  EXPECT_TRUE(Fails(Call(*evaluations_, &v1::EvaluationService::Stub::CancelEvaluationJob, cancel, &job), grpc::FAILED_PRECONDITION, "JOB_ENDED"));
  v1::DeleteEvaluationJobRequest remove;
  remove.set_name(get.name());
  google::protobuf::Empty empty;
  remove.set_etag(queued_etag);
  EXPECT_TRUE(Fails(Call(*evaluations_, &v1::EvaluationService::Stub::DeleteEvaluationJob, remove, &empty), grpc::ABORTED, "ETAG_MISMATCH"));
  remove.set_etag(ended_etag);
  EXPECT_TRUE(Call(*evaluations_, &v1::EvaluationService::Stub::DeleteEvaluationJob, remove, &empty).ok());
}

TEST_F(EvaluationsTest, EvaluationsOfUnknownAnswersAreRefusedWithTheirLines) {
  MakeModel("base");
  v1::Dataset dataset;
  ASSERT_TRUE(CreateDataset("numbers", R"({"prompt":"p","completion":"c","answer":"7"})" "\n"
                                       R"({"prompt":"p","completion":"c","answer":"seven"})" "\n", &dataset).ok());
  ASSERT_TRUE(CreateDataset("choices", R"({"subject":"s","question":"q","choices":["x","y"],"answer":"B"})", &dataset).ok());
  EXPECT_EQ(dataset.format(), v1::DATASET_FORMAT_CHOICE);
  v1::CreateEvaluationJobRequest request;
  request.set_parent(kProject);
  v1::EvaluationSpec& spec = *request.mutable_evaluation_job()->mutable_spec();
  spec.set_model("base");
  spec.set_dataset("numbers");
  spec.set_scoring(v1::SCORING_LAST_NUMBER);
  v1::EvaluationJob job;
  const auto create = [&] { return Call(*evaluations_, &v1::EvaluationService::Stub::CreateEvaluationJob, request, &job); };
  const grpc::Status unknown = create();
  EXPECT_TRUE(Fails(unknown, grpc::INVALID_ARGUMENT, "UNKNOWN_ANSWER"));
  EXPECT_THAT(ViolatedFields(unknown), ::testing::ElementsAre("evaluation_job.spec.dataset"));
  EXPECT_THAT(FromGrpc(unknown).violations()[0].description, ::testing::StartsWith("line 2: "));
  spec.set_scoring(v1::SCORING_CHOICE_LIKELIHOOD);
  EXPECT_TRUE(Fails(create(), grpc::INVALID_ARGUMENT, "NO_CHOICES"));
  spec.set_dataset("choices");
  spec.set_few_shots(1);
  EXPECT_THAT(ViolatedFields(create()), ::testing::ElementsAre("evaluation_job.spec.few_shot_dataset"));
  spec.set_few_shot_dataset("choices");
  spec.set_few_shots(2);
  EXPECT_TRUE(Fails(create(), grpc::INVALID_ARGUMENT, "FEW_SHOTS_MISSING"));
  spec.set_few_shots(1);
  spec.set_prompt_template(v1::PROMPT_TEMPLATE_ALPACA);
  spec.add_answer_words("x");
  spec.mutable_generation()->set_num_beams(4);
  spec.mutable_generation()->set_temperature(1);
  EXPECT_THAT(ViolatedFields(create()), ::testing::ElementsAre("evaluation_job.spec.answer_words", "evaluation_job.spec.prompt_template",
                                                               "evaluation_job.spec.generation.num_beams"));
  spec.clear_answer_words();
  spec.clear_prompt_template();
  spec.clear_generation();
  ASSERT_TRUE(create().ok());
  EXPECT_FALSE(job.spec().perplexity());
  const worker::v1::Lease lease = NextLease();
  EXPECT_EQ(lease.task().evaluate().few_shot_format(), v1::DATASET_FORMAT_CHOICE);
  ASSERT_EQ(lease.task().inputs_size(), 3);
  EXPECT_EQ(lease.task().inputs(2).name(), "few_shots");
}

TEST_F(EvaluationsTest, GenerateEndsAtTheDeadlineAndTellsWhetherAWorkerHadIt) {
  MakeModel("base");
  v1::GenerateRequest request;
  request.set_parent(kProject);
  request.set_model("base");
  v1::GenerateResponse response;
  EXPECT_TRUE(Fails(Call(*evaluations_, &v1::EvaluationService::Stub::Generate, request, &response), grpc::INVALID_ARGUMENT, "INVALID_REQUEST"));
  request.add_prompts("Q: the");
  grpc::Status answers[2];
  {
    std::vector<std::jthread> callers;
    for (grpc::Status& answer : answers) {
      callers.emplace_back([&] {
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(4));
        v1::GenerateResponse none;
        answer = evaluations_->Generate(&context, request, &none);
      });
    }
    EXPECT_TRUE(NextLease().task().has_generate());  // the one slot of the agent takes one of them
  }
  std::multiset<std::string> messages;
  for (const grpc::Status& answer : answers) {
    EXPECT_TRUE(Fails(answer, grpc::DEADLINE_EXCEEDED, "GENERATION_TIMEOUT"));
    messages.insert(answer.error_message());
  }
  EXPECT_THAT(messages, ::testing::ElementsAre(HasSubstr("no worker took the request before the deadline"),
                                               HasSubstr("ask for fewer tokens or wait longer")));
  const auto left = server_->services().store().ListWork({.project = "default", .kinds = {WorkKind::kGenerate}, .states = {}, .cursor = {}});
  ASSERT_TRUE(left.ok());
  ASSERT_EQ(left->rows.size(), 1U) << "of the one that nobody took nothing is left";
  EXPECT_EQ(left->rows[0].row.state, core::JobState::kCancelling);
}

}  // namespace
}  // namespace sbora::server
