// The registry of index regions: reservation, its end, exhaustion, comparison, and merges of several adapters.
#include <atomic>
#include <set>
#include <thread>

#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using ::testing::HasSubstr;
using Jobs = v1::FineTuningService::Stub;
using Adapters = v1::AdapterService::Stub;

constexpr int kWidth = 16;  // of every target of the fixture's model

class RegionsTest : public ContractTest {
 protected:
  void SetUp() override {
    ContractTest::SetUp();
    MakeModel("base");
    MakeDataset("data");
  }

  v1::CreateFineTuningJobRequest DisjointJob(const std::string& id, int rank) {
    v1::CreateFineTuningJobRequest request = GoodJob(id);
    v1::AdapterSpec& adapter = *request.mutable_fine_tuning_job()->mutable_spec()->mutable_adapter();
    adapter.set_rank(rank);
    adapter.set_disjoint_from_all(true);
    return request;
  }
  static v1::AdapterSpec& AdapterOf(v1::CreateFineTuningJobRequest& request) {
    return *request.mutable_fine_tuning_job()->mutable_spec()->mutable_adapter();
  }
  grpc::Status Create(const v1::CreateFineTuningJobRequest& request, v1::FineTuningJob* job = nullptr) {
    v1::FineTuningJob unused;
    return Call(*jobs_, &Jobs::CreateFineTuningJob, request, job == nullptr ? &unused : job);
  }
  void Cancel(const std::string& id) {
    v1::CancelFineTuningJobRequest request;
    request.set_name(std::string(kProject) + "/fineTuningJobs/" + id);
    v1::FineTuningJob job;
    const grpc::Status status = Call(*jobs_, &Jobs::CancelFineTuningJob, request, &job);
    ASSERT_TRUE(status.ok()) << FromGrpc(status);
  }
  grpc::Status Compare(const std::vector<std::string>& names, v1::CompareAdaptersResponse* response) {
    v1::CompareAdaptersRequest request;
    request.set_parent(kProject);
    for (const std::string& name : names) request.add_adapters(name);
    return Call(*adapters_, &Adapters::CompareAdapters, request, response);
  }
  /// What a job was given, as its worker will get it, by module.
  std::map<std::string, std::set<int>> IndicesOf(const std::string& id) {
    const auto work = server_->services().store().GetWork(std::string(kProject) + "/fineTuningJobs/" + id);
    EXPECT_TRUE(work.ok()) << work.status();
    worker::v1::Task task;
    EXPECT_TRUE(task.ParseFromString(work->payload->task));
    std::map<std::string, std::set<int>> indices;
    for (const auto& module : task.train().indices()) {
      indices[module.module()] = {module.indices().begin(), module.indices().end()};
    }
    return indices;
  }
};

TEST_F(RegionsTest, ConcurrentJobsNeverGetOverlappingRegionsAndThenTheBaseIsFull) {
  constexpr int kRank = 2;
  constexpr int kCallers = 3 * kWidth / kRank;  // three for each place
  std::vector<grpc::Status> answers(kCallers);
  {
    std::vector<std::jthread> callers;
    for (int i = 0; i < kCallers; ++i) {
      callers.emplace_back(
          [&, i] { answers[static_cast<size_t>(i)] = Create(DisjointJob("job-" + std::to_string(i), kRank)); });
    }
  }
  std::map<std::string, std::set<int>> taken;
  int accepted = 0;
  for (int i = 0; i < kCallers; ++i) {
    const grpc::Status& answer = answers[static_cast<size_t>(i)];
    if (!answer.ok()) {
      EXPECT_TRUE(Fails(answer, grpc::RESOURCE_EXHAUSTED, "REGION_EXHAUSTED"));
      continue;
    }
    ++accepted;
    const auto indices = IndicesOf("job-" + std::to_string(i));
    ASSERT_EQ(indices.size(), 5U);
    for (const auto& [module, own] : indices) {
      EXPECT_EQ(own.size(), static_cast<size_t>(kRank));
      for (const int index : own) EXPECT_TRUE(taken[module].insert(index).second) << module << " " << index;
    }
  }
  EXPECT_EQ(accepted, kWidth / kRank);
}

// Plain jobs take regions without asking anybody. One that asks, at the same time, must still stay out of those before
// it.
TEST_F(RegionsTest, ARaceWithJobsThatDoNotAskIsDecidedByTheStore) {
  constexpr int kPlain = 12;
  grpc::Status asked;
  {
    std::vector<std::jthread> callers;
    for (int i = 0; i < kPlain; ++i) {
      callers.emplace_back([&, i] {
        v1::CreateFineTuningJobRequest request = GoodJob("plain-" + std::to_string(i));
        AdapterOf(request).set_rank(1);
        AdapterOf(request).set_index_seed(static_cast<uint64_t>(i % 4));
        EXPECT_TRUE(Create(request).ok());
      });
    }
    callers.emplace_back([&] { asked = Create(DisjointJob("asking", 1)); });
  }
  ASSERT_TRUE(asked.ok()) << FromGrpc(asked);
  const auto registry = server_->services().store().ListRegions("default", std::string(64, 'a'));
  ASSERT_TRUE(registry.ok()) << registry.status();
  ASSERT_EQ(registry->rows.size(), kPlain + 1U);
  const auto own = IndicesOf("asking");
  for (const RegionRow& row : registry->rows) {
    const std::string id = row.name.substr(row.name.rfind('/') + 1);
    if (id == "asking") break;  // who came later did not ask
    for (const auto& [module, indices] : IndicesOf(id)) {
      for (const int index : indices) EXPECT_FALSE(own.at(module).contains(index)) << id << " " << module;
    }
  }
}

TEST_F(RegionsTest, RegionsSurviveARestartAndEndWithTheJobOrTheAdapter) {
  ASSERT_TRUE(Create(DisjointJob("trained", 8)).ok());
  FinishJob("trained");
  ASSERT_TRUE(Create(DisjointJob("waiting", 8)).ok());
  StopServer();
  StartServer();
  const grpc::Status full = Create(DisjointJob("third", 1));
  EXPECT_TRUE(Fails(full, grpc::RESOURCE_EXHAUSTED, "REGION_EXHAUSTED"));
  for (const char* part :
       {"0 of 16 input coordinates free", "rank 1", "adapters/trained", "adapters/waiting", "delete adapters"}) {
    EXPECT_THAT(full.error_message(), HasSubstr(part));
  }
  Cancel("waiting");
  // It may have been granted before the stop: then the agent must say that it does not hold it.
  const auto cancelled = [&] { return GetJob("waiting").state() == v1::FineTuningJob::STATE_CANCELLED; };
  if (!cancelled()) Sync([&](const worker::v1::SynchronizeResponse&) { return cancelled(); });
  ASSERT_TRUE(Create(DisjointJob("third", 8)).ok());
  EXPECT_TRUE(Fails(Create(DisjointJob("fourth", 1)), grpc::RESOURCE_EXHAUSTED, "REGION_EXHAUSTED"));

  // The job's row may go; the adapter still lies where it lies.
  v1::DeleteFineTuningJobRequest remove_job;
  remove_job.set_name(std::string(kProject) + "/fineTuningJobs/trained");
  google::protobuf::Empty empty;
  ASSERT_TRUE(Call(*jobs_, &Jobs::DeleteFineTuningJob, remove_job, &empty).ok());
  EXPECT_TRUE(Fails(Create(DisjointJob("fourth", 1)), grpc::RESOURCE_EXHAUSTED, "REGION_EXHAUSTED"));
  v1::DeleteAdapterRequest remove;
  remove.set_name(std::string(kProject) + "/adapters/trained");
  ASSERT_TRUE(Call(*adapters_, &Adapters::DeleteAdapter, remove, &empty).ok());
  EXPECT_TRUE(Create(DisjointJob("fourth", 8)).ok());
}

TEST_F(RegionsTest, ARepeatedRequestIsNotRefusedForWhatItsFirstCallHolds) {
  v1::CreateFineTuningJobRequest request = DisjointJob("all-of-it", kWidth);
  request.set_request_id(NewUuid4());
  v1::FineTuningJob first, second;
  ASSERT_TRUE(Create(request, &first).ok());
  const grpc::Status again = Create(request, &second);
  ASSERT_TRUE(again.ok()) << FromGrpc(again);
  EXPECT_EQ(first.uid(), second.uid());
}

TEST_F(RegionsTest, NamedHoldersAreResolvedAndOnlyTheyAreAvoided) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  v1::CreateFineTuningJobRequest other = GoodJob("other");
  AdapterOf(other).set_rank(12);
  ASSERT_TRUE(Create(other).ok());
  v1::CreateFineTuningJobRequest request = GoodJob("second");
  AdapterOf(request).set_rank(12);
  AdapterOf(request).add_disjoint_from("first");
  AdapterOf(request).add_disjoint_from(std::string(kProject) + "/fineTuningJobs/first");
  v1::FineTuningJob job;
  const grpc::Status status = Create(request, &job);
  ASSERT_TRUE(status.ok()) << FromGrpc(status);
  ASSERT_EQ(job.spec().adapter().disjoint_from_size(), 1);
  EXPECT_EQ(job.spec().adapter().disjoint_from(0), "projects/default/adapters/first");
  const auto first = IndicesOf("first");
  for (const auto& [module, indices] : IndicesOf("second")) {
    for (const int index : indices) EXPECT_FALSE(first.at(module).contains(index)) << module;
  }
  v1::CreateFineTuningJobRequest bad = GoodJob("third");
  AdapterOf(bad).add_disjoint_from("nobody");
  EXPECT_TRUE(Fails(Create(bad), grpc::NOT_FOUND, "REGION_HOLDER_NOT_FOUND"));
  Cancel("other");
  AdapterOf(bad).set_disjoint_from(0, "other");
  const grpc::Status given_back = Create(bad);
  EXPECT_TRUE(Fails(given_back, grpc::NOT_FOUND, "REGION_HOLDER_NOT_FOUND"));
  EXPECT_THAT(given_back.error_message(), HasSubstr("CANCELLED"));
  AdapterOf(bad).set_disjoint_from(0, "projects/else/adapters/first");
  EXPECT_TRUE(Fails(Create(bad), grpc::INVALID_ARGUMENT, "OTHER_PROJECT"));
  AdapterOf(bad).set_disjoint_from_all(true);
  EXPECT_TRUE(Fails(Create(bad), grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
}

TEST_F(RegionsTest, OfAnAdapterFromBeforeTheRegistryNobodyKnowsWhereItLies) {
  const std::string name = std::string(kProject) + "/adapters/old";
  const ResourceRow row{.kind = ResourceKind::kAdapter, .uid = NewUuid7(), .project = "default", .id = "old", .name = name, .version = 1,
                        .create_ms = 1, .payload = ""};
  ASSERT_TRUE(server_->services().coordinator->Write({InsertResource{.row = row, .by_work = {}}}).ok());
  v1::CreateFineTuningJobRequest named = GoodJob("named");
  AdapterOf(named).add_disjoint_from("old");
  v1::CompareAdaptersResponse compared;
  ASSERT_TRUE(Create(GoodJob("plain")).ok());
  for (const grpc::Status& unknown : {Create(DisjointJob("all", 1)), Create(named), Compare({"plain", "old"}, &compared)}) {
    EXPECT_TRUE(Fails(unknown, grpc::FAILED_PRECONDITION, "REGION_NOT_RECORDED"));
    EXPECT_THAT(unknown.error_message(), ::testing::StartsWith(name + " was made before regions were recorded"));
    EXPECT_THAT(unknown.error_message(), HasSubstr("train it again, or name in disjoint_from the adapters that matter"));
    EXPECT_THAT(FromGrpc(unknown).metadata(), ::testing::Contains(std::pair<std::string, std::string>("resource", name)));
  }
  v1::CreateFineTuningJobRequest others = GoodJob("others");
  AdapterOf(others).add_disjoint_from("plain");
  EXPECT_TRUE(Create(others).ok()) << "what the message advises";
}

TEST_F(RegionsTest, RowsAndColumnsOfOneModuleAreNotDisjoint) {
  ASSERT_TRUE(Create(GoodJob("columns")).ok());
  v1::CreateFineTuningJobRequest rows = DisjointJob("rows", 1);
  AdapterOf(rows).set_method(v1::METHOD_SBORA_FB);
  const grpc::Status crossed = Create(rows);
  EXPECT_TRUE(Fails(crossed, grpc::FAILED_PRECONDITION, "REGION_AXIS_CONFLICT"));
  EXPECT_THAT(crossed.error_message(), HasSubstr("adapters/columns holds columns of"));
  AdapterOf(rows).add_target_modules("o");
  EXPECT_TRUE(Create(rows).ok());
  AdapterOf(rows).set_share_indices(true);
  EXPECT_TRUE(Fails(Create(rows), grpc::INVALID_ARGUMENT, "INVALID_SPEC"));
}

TEST_F(RegionsTest, CapacityIsToldBeforeItRunsOut) {
  ASSERT_TRUE(Create(DisjointJob("first", 6)).ok());
  v1::CreateFineTuningJobRequest request = DisjointJob("second", 4);
  request.set_validate_only(true);
  v1::FineTuningJob job;
  const grpc::Status checked = Create(request, &job);
  ASSERT_TRUE(checked.ok()) << FromGrpc(checked);
  EXPECT_EQ(job.region_capacity().holders(), 1);
  EXPECT_EQ(job.region_capacity().largest_rank(), 10);
  EXPECT_EQ(job.region_capacity().adapters_left(), 2);
  ASSERT_EQ(job.region_capacity().modules_size(), 5);
  EXPECT_EQ(job.region_capacity().modules(0).module(), "q");
  EXPECT_EQ(job.region_capacity().modules(0).coordinates(), kWidth);
  EXPECT_EQ(job.region_capacity().modules(0).free(), 10);
  EXPECT_TRUE(Create(DisjointJob("second", 10)).ok()) << "a check must reserve nothing";

  v1::EstimateFineTuningJobRequest estimate;
  estimate.set_parent(kProject);
  *estimate.mutable_spec() = GoodJob("x").fine_tuning_job().spec();
  v1::EstimateFineTuningJobResponse estimated;
  ASSERT_TRUE(Call(*jobs_, &Jobs::EstimateFineTuningJob, estimate, &estimated).ok());
  EXPECT_EQ(estimated.region_capacity().adapters_left(), 0);
  EXPECT_EQ(estimated.changed_weights().changed(), 5 * 16 * 4);
  EXPECT_EQ(estimated.changed_weights().in_targets(), 5 * 16 * 16);
}

TEST_F(RegionsTest, AdaptersAreComparedFromTheRegistryAndMergedTogetherWithWeights) {
  ASSERT_TRUE(Create(DisjointJob("one", 4)).ok());
  FinishJob("one");
  ASSERT_TRUE(Create(DisjointJob("two", 4)).ok());
  FinishJob("two");
  v1::CreateFineTuningJobRequest wide = GoodJob("wide");
  AdapterOf(wide).set_rank(kWidth);
  ASSERT_TRUE(Create(wide).ok());  // not trained yet, but its regions are known
  v1::CompareAdaptersResponse compared;
  ASSERT_TRUE(Compare({"one", "two", "wide"}, &compared).ok());
  EXPECT_FALSE(compared.merges_exactly());
  ASSERT_EQ(compared.pairs_size(), 3);
  EXPECT_TRUE(compared.pairs(0).merges_exactly());
  EXPECT_EQ(compared.pairs(0).modules_size(), 5);
  EXPECT_EQ(compared.pairs(0).modules(0).shared_coordinates(), 0);
  EXPECT_FALSE(compared.pairs(1).merges_exactly());
  EXPECT_EQ(compared.pairs(1).modules(0).shared_coordinates(), 4);
  EXPECT_DOUBLE_EQ(compared.pairs(1).modules(0).share(), 1.0);
  EXPECT_THAT(compared.pairs(1).reason(), HasSubstr("adapters/one and projects/default/adapters/wide"));
  EXPECT_EQ(compared.changed_weights().changed(), 5 * 16 * 16);
  EXPECT_TRUE(Fails(Compare({"one"}, &compared), grpc::INVALID_ARGUMENT, "ADAPTERS_COUNT"));
  EXPECT_TRUE(Fails(Compare({"one", "one"}, &compared), grpc::INVALID_ARGUMENT, "ADAPTER_DUPLICATE"));
  EXPECT_TRUE(Fails(Compare({"one", "nobody"}, &compared), grpc::NOT_FOUND, "REGION_HOLDER_NOT_FOUND"));

  v1::MergeAdaptersRequest merge;
  merge.set_parent(kProject);
  merge.add_adapters("two");
  merge.add_adapters("one");
  merge.add_weights(0.5);
  google::longrunning::Operation operation;
  EXPECT_TRUE(
      Fails(Call(*adapters_, &Adapters::MergeAdapters, merge, &operation), grpc::INVALID_ARGUMENT, "WEIGHTS_COUNT"));
  merge.add_weights(2.0);
  const grpc::Status merged = Call(*adapters_, &Adapters::MergeAdapters, merge, &operation);
  ASSERT_TRUE(merged.ok()) << FromGrpc(merged);
  v1::AdapterOperationMetadata metadata;
  ASSERT_TRUE(operation.metadata().UnpackTo(&metadata));
  EXPECT_EQ(metadata.adapters_size(), 2);
  EXPECT_EQ(metadata.changed_weights().changed(), 5 * 16 * 8);
  WaitForState("wide", v1::FineTuningJob::STATE_QUEUED);
  Cancel("wide");
  const worker::v1::Lease lease = NextLease();
  ASSERT_TRUE(lease.task().has_merge()) << lease.DebugString();
  ASSERT_EQ(lease.task().merge().adapters_size(), 2);
  EXPECT_EQ(lease.task().merge().adapters(0).name(), "projects/default/adapters/two");
  EXPECT_EQ(lease.task().merge().adapters(0).group(), "adapter-0");
  EXPECT_EQ(lease.task().merge().adapters(1).weight(), 2.0);
  ASSERT_EQ(lease.task().inputs_size(), 3);
  EXPECT_EQ(lease.task().inputs(2).name(), "adapter-1");
}

TEST_F(RegionsTest, OverlappingAdaptersAreRefusedBeforeAnyWorkerAndMergedOnRequest) {
  for (const char* id : {"one", "same"}) {
    ASSERT_TRUE(Create(GoodJob(id)).ok());
    FinishJob(id);
  }
  v1::MergeAdaptersRequest merge;
  merge.set_parent(kProject);
  merge.add_adapters("one");
  merge.add_adapters("same");
  google::longrunning::Operation operation;
  const grpc::Status refused = Call(*adapters_, &Adapters::MergeAdapters, merge, &operation);
  EXPECT_TRUE(Fails(refused, grpc::FAILED_PRECONDITION, "REGIONS_OVERLAP"));
  EXPECT_THAT(refused.error_message(), HasSubstr("100.00 % of the smaller region"));
  merge.set_allow_overlap(true);
  ASSERT_TRUE(Call(*adapters_, &Adapters::MergeAdapters, merge, &operation).ok());
  EXPECT_TRUE(NextLease().task().merge().allow_overlap());
}

TEST_F(RegionsTest, APatchIsMadeWithTheBaseAtHand) {
  ASSERT_TRUE(Create(GoodJob("first")).ok());
  FinishJob("first");
  v1::ExportAdapterRequest request;
  request.set_name(std::string(kProject) + "/adapters/first");
  request.set_format(v1::EXPORT_FORMAT_PATCH);
  google::longrunning::Operation operation;
  const grpc::Status status = Call(*adapters_, &Adapters::ExportAdapter, request, &operation);
  ASSERT_TRUE(status.ok()) << FromGrpc(status);
  const worker::v1::Lease lease = NextLease();
  EXPECT_EQ(lease.task().export_().format(), v1::EXPORT_FORMAT_PATCH);
  std::set<std::string> groups;
  for (const auto& group : lease.task().inputs()) groups.insert(group.name());
  EXPECT_EQ(groups, (std::set<std::string>{"adapter", "model"}));
  v1::DeleteModelRequest remove;
  remove.set_name(std::string(kProject) + "/models/base");
  google::protobuf::Empty empty;
  EXPECT_TRUE(Fails(Call(*models_, &v1::ModelService::Stub::DeleteModel, remove, &empty), grpc::FAILED_PRECONDITION,
                    "MODEL_IN_USE"));
}

}  // namespace
}  // namespace sbora::server
