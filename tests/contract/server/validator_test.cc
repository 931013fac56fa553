// Jobs in VALIDATING: what fails them and what does not. The validator is the test's own, so that its surroundings can fail.
#include "server/services/validator.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <thread>

#include "common/storage/memory_object_store.h"
#include "server/services/job_planner.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

class ValidatorTest : public ContractTest {
 protected:
  void SetUp() override {
    ContractTest::SetUp();
    MakeModel("base");
    MakeDataset("data");
  }
  /// Accepted, and the server's own validator does not know of it.
  std::string Accept(const std::string& id) {
    StatusOr<PlannedJob> planned = PlanFineTuning(server_->services(), GoodJob(id));
    SBORA_CHECK(planned.ok(), "{}", planned.status().ToString());
    const auto work = server_->services().coordinator->Submit(std::move(planned->submit));
    SBORA_CHECK(work.ok(), "{}", work.status().ToString());
    return work->row.name;
  }
  /// A program that runs `shell` in place of the check; there, "$@" are the check's arguments.
  std::filesystem::path Program(const std::string& shell) const {
    const std::filesystem::path program = directory_.path() / "check.sh";
    SBORA_CHECK(WriteFileAtomic(program, "#!/bin/sh\n" + shell + "\n").ok(), "script");
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    return program;
  }
  std::string Once() const { return "mkdir " + (directory_.path() / "once").string() + " 2>/dev/null"; }
  static std::string TheRealCheck() { return "exec " SBORA_SERVER_PROGRAM " \"$@\""; }
};

TEST_F(ValidatorTest, AFullDiskOfTheServerFailsNoJob) {
  MemoryObjectStore objects;
  ServiceContext context = server_->services();
  const auto listed = context.objects->List("", {});
  ASSERT_TRUE(listed.ok()) << listed.status();
  for (const auto& object : listed->objects) {
    ASSERT_TRUE(objects.Put(object.key, *context.objects->Get(object.key, 1 << 20), PutMode::kCreate).ok());
  }
  context.objects = &objects;
  objects.FailNext("GetToFile", ResourceExhausted("NO_SPACE", "the disk is full"));
  DatasetValidator validator(context);
  validator.Add(Accept("first"));
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
}

TEST_F(ValidatorTest, AKilledCheckIsRepeated) {
  ServiceContext context = server_->services();
  context.check_program = Program(Once() + " && kill -KILL $$\n" + TheRealCheck());
  DatasetValidator validator(context);
  validator.Add(Accept("first"));
  WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
  EXPECT_TRUE(std::filesystem::exists(directory_.path() / "once")) << "it was never killed";
}

TEST_F(ValidatorTest, ACheckThatTakesTooLongEnds) {
  ServiceContext context = server_->services();
  context.check_program = Program("exec sleep 3600");
  context.check_limit = std::chrono::milliseconds(100);
  DatasetValidator validator(context);
  validator.Add(Accept("long"));
  WaitForState("long", v1::FineTuningJob::STATE_FAILED);
  EXPECT_EQ(GetJob("long").termination_reason(), v1::TERMINATION_REASON_INVALID_INPUT);
  EXPECT_EQ(GetJob("long").failure().reason(), "DATASET_CHECK_TOO_LONG");
}

TEST_F(ValidatorTest, ALongCheckHoldsUpNobody) {
  ServiceContext context = server_->services();
  context.check_program = Program(Once() + " && exec sleep 3600\n" + TheRealCheck());
  DatasetValidator validator(context);
  validator.Add(Accept("long"));
  while (!std::filesystem::exists(directory_.path() / "once")) SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(10), {});
  validator.Add(Accept("short"));
  WaitForState("short", v1::FineTuningJob::STATE_QUEUED);
  EXPECT_EQ(GetJob("long").state(), v1::FineTuningJob::STATE_VALIDATING);
}

TEST_F(ValidatorTest, ChecksOfJobsThatAreNotStoredAreFewAtATime) {
  const std::filesystem::path gate = directory_.path() / "gate", started = directory_.path() / "started";
  std::filesystem::create_directory(started);
  ASSERT_EQ(::mkfifo(gate.c_str(), 0600), 0);
  // Each check waits for a line of its own.
  const UniqueFd lines(::open(gate.c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(lines.valid());
  server_->services().check_program =
      Program("touch " + started.string() + "/$$\nread line <" + gate.string() + "\n" + TheRealCheck());
  v1::CreateFineTuningJobRequest request = GoodJob("checked");
  request.set_validate_only(true);
  const auto check = [&] {
    v1::FineTuningJob job;
    return Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, request, &job);
  };
  std::vector<grpc::Status> answers(DatasetValidator::kMaxCallers);
  {
    std::vector<std::jthread> callers;
    for (grpc::Status& answer : answers) callers.emplace_back([&] { answer = check(); });
    const auto running = [&] { return std::distance(std::filesystem::directory_iterator(started), std::filesystem::directory_iterator()); };
    const MonotonicTime limit = SystemClock().Now() + std::chrono::seconds(60);
    while (running() < DatasetValidator::kMaxCallers && SystemClock().Now() < limit) {
      SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(10), {});
    }
    const grpc::Status refused = check();
    EXPECT_TRUE(Fails(refused, grpc::RESOURCE_EXHAUSTED, "TOO_MANY_CHECKS"));
    EXPECT_THAT(refused.error_message(), ::testing::HasSubstr(std::to_string(DatasetValidator::kMaxCallers) + " calls check their data already"));
    EXPECT_THAT(refused.error_message(), ::testing::HasSubstr("try again later"));
    EXPECT_TRUE(WriteAll(lines.get(), std::string(answers.size(), '\n'), gate.string()).ok());
  }
  for (const grpc::Status& answer : answers) EXPECT_TRUE(answer.ok()) << FromGrpc(answer);
  server_->services().check_program.clear();
  EXPECT_TRUE(check().ok()) << "their places are free again";
}

TEST_F(ValidatorTest, WhatIsNotTheInputsFaultIsNotCalledSo) {
  const std::string name = Accept("first");
  ASSERT_TRUE(server_->services().coordinator->FailValidation(name, {13, "VALIDATION_FAILED", "broken"}).ok());
  EXPECT_EQ(GetJob("first").state(), v1::FineTuningJob::STATE_FAILED);
  EXPECT_EQ(GetJob("first").termination_reason(), v1::TERMINATION_REASON_INTERNAL);
}

}  // namespace
}  // namespace sbora::server
