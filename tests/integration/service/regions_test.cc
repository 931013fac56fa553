/// Multi-SBoRA from end to end, on real programs: jobs with regions of their own, trained, compared, merged together in
/// both orders, exported as a patch that is applied and taken back.
#include <gtest/gtest.h>

#include <map>

#include "core/adapter.h"
#include "core/model_folder.h"
#include "core/patch.h"
#include "core/region.h"
#include "tests/integration/service/service_fixture.h"

namespace sbora::testing {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

class ServiceRegionsTest : public OwnServiceTest {
 protected:
  void Train(const std::string& id) {
    auto spec = SmallSpec(4);
    spec.mutable_adapter()->set_rank(12);  // of 32: without asking, two of them nearly always meet
    spec.mutable_adapter()->set_disjoint_from_all(true);
    const auto job = service().Submit(id, spec);
    ASSERT_TRUE(job.ok()) << job.status();
  }
  void Finish(const std::string& id) {
    const auto done = service().WaitForState(id, v1::FineTuningJob::STATE_SUCCEEDED, seconds(120));
    ASSERT_TRUE(done.ok()) << done.status() << service().Logs();
    const auto adapter = client().GetAdapter(done->adapter());
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    ASSERT_TRUE(client().Pull(adapter->files(), adapter->manifest_sha256(), Dir(id), {}).ok());
  }
  Status Merge(const std::vector<std::string>& adapters, const std::string& name) {
    v1::MergeAdaptersRequest request;
    for (const std::string& adapter : adapters) request.add_adapters(adapter);
    return PullResult<v1::MergeAdaptersResult>(client().MergeAdapters(request), name);
  }
};

TEST_F(ServiceRegionsTest, TwoTasksMergeExactlyInAnyOrderAndComeOutAgain) {
  for (const char* id : {"one", "two"}) ASSERT_NO_FATAL_FAILURE(Train(id));
  auto spec = SmallSpec(4);
  spec.mutable_adapter()->set_rank(12);
  spec.mutable_adapter()->set_disjoint_from_all(true);
  EXPECT_EQ(service().Submit("three", spec).status().reason(), "REGION_EXHAUSTED");
  for (const char* id : {"one", "two"}) ASSERT_NO_FATAL_FAILURE(Finish(id));

  v1::CompareAdaptersRequest compare;
  compare.add_adapters("one");
  compare.add_adapters("two");
  const auto compared = client().CompareAdapters(compare);
  ASSERT_TRUE(compared.ok()) << compared.status();
  EXPECT_TRUE(compared->merges_exactly());

  ASSERT_TRUE(Merge({"one", "two"}, "forth").ok()) << service().Logs();
  ASSERT_TRUE(Merge({"two", "one"}, "back").ok()) << service().Logs();
  const auto base = core::ModelFolder::Open(Dir("tiny"));
  const auto forth = core::ModelFolder::Open(Dir("forth"));
  const auto back = core::ModelFolder::Open(Dir("back"));
  ASSERT_TRUE(base.ok() && forth.ok() && back.ok()) << forth.status() << back.status();
  EXPECT_EQ(forth->ComputeBaseHash(), back->ComputeBaseHash());

  // Every bit that differs from the base is where one of the two lies, and is as that one alone made it.
  std::map<std::string, std::map<int64_t, std::string>> owner;  // weight -> column -> adapter
  std::map<std::string, core::ModelFolder> solo;
  for (const std::string id : {"one", "two"}) {
    ASSERT_TRUE(Merge({id}, "solo-" + id).ok()) << service().Logs();
    solo.emplace(id, core::ModelFolder::Open(Dir("solo-" + id)).value());
    const auto adapter = core::AdapterFolder::Open(Dir(id));
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    const auto regions = core::RegionsOf(*adapter);
    ASSERT_TRUE(regions.ok()) << regions.status();
    for (const core::Region& region : *regions) {
      for (const int32_t column : region.indices) owner[region.module + ".weight"][column] = id;
    }
  }
  int64_t changed = 0;
  for (const std::string& name : base->tensor_names()) {
    const auto before = base->Tensor(name), after = forth->Tensor(name);
    for (size_t at = 0; at < before->data.size(); at += sizeof(float)) {
      if (std::memcmp(&before->data[at], &after->data[at], sizeof(float)) == 0) continue;
      const int64_t column = static_cast<int64_t>(at / sizeof(float)) % before->shape.back();
      ASSERT_TRUE(owner.contains(name) && owner[name].contains(column)) << name << " " << column;
      const auto alone = solo.at(owner[name][column]).Tensor(name);
      EXPECT_EQ(std::memcmp(&alone->data[at], &after->data[at], sizeof(float)), 0) << name << " " << at;
      ++changed;
    }
  }
  EXPECT_GT(changed, compared->changed_weights().changed() / 2);
  EXPECT_LE(changed, compared->changed_weights().changed());

  v1::ExportAdapterRequest patch;
  patch.set_name(client().ResourceName("adapters", "one"));
  patch.set_format(v1::EXPORT_FORMAT_PATCH);
  ASSERT_TRUE(PullResult<v1::ExportAdapterResult>(client().ExportAdapter(patch), "patch").ok()) << service().Logs();
  const auto applied = core::ApplyPatch(Dir("tiny"), Dir("patch"), Dir("applied"));
  ASSERT_TRUE(applied.ok()) << applied.status();
  EXPECT_EQ(core::ModelFolder::Open(Dir("applied"))->ComputeBaseHash(), solo.at("one").ComputeBaseHash());
  ASSERT_TRUE(core::ReversePatch(Dir("applied"), Dir("patch"), Dir("restored")).ok());
  EXPECT_EQ(core::ModelFolder::Open(Dir("restored"))->ComputeBaseHash(), base->ComputeBaseHash());
}

}  // namespace
}  // namespace sbora::testing
