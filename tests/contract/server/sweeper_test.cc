// What the sweeper removes, on a whole server whose clock the test moves.
#include "server/services/sweeper.h"

#include "common/storage/memory_object_store.h"
#include "server/services/stored_files.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

/// The present, moved on.
class LaterClock final : public Clock {
 public:
  explicit LaterClock(Duration by) : by_(by) {}
  MonotonicTime Now() const override { return SystemClock().Now() + by_; }
  WallTime WallNow() const override { return SystemClock().WallNow() + std::chrono::duration_cast<WallTime::duration>(by_); }
  bool SleepUntil(MonotonicTime deadline, const std::stop_token& stop) const override {
    return SystemClock().SleepUntil(deadline - by_, stop);
  }

 private:
  const Duration by_;
};

class SweeperTest : public ContractTest {
 protected:
  const ServiceContext& services() { return server_->services(); }
  Status SweepLater(Duration by) {
    const LaterClock clock(by);
    ServiceContext later = services();
    later.clock = &clock;
    return Sweeper::SweepOnce(later);
  }
  bool IsStored(const v1::File& file) {
    return services().objects->Head(ObjectKey("default", UidOfObject(file.object()))).ok();
  }
  /// A job "first" in the hands of the played agent.
  worker::v1::Lease StartJob() {
    MakeModel("base");
    MakeDataset("data");
    v1::FineTuningJob job;
    EXPECT_TRUE(Call(*jobs_, &v1::FineTuningService::Stub::CreateFineTuningJob, GoodJob("first"), &job).ok());
    WaitForState("first", v1::FineTuningJob::STATE_QUEUED);
    return NextLease();
  }
  grpc::Status CommitAs(const std::string& worker, const worker::v1::Lease& lease) {
    worker::v1::CommitAttemptRequest request;
    request.set_worker(worker);
    request.set_instance_uuid(instance_);
    *request.mutable_lease() = lease.id();
    request.mutable_result()->mutable_train()->set_steps(2);
    *request.add_files() = FileOf("adapter_config.json", "{}");
    *request.add_files() = FileOf("adapter_model.safetensors", "factors");
    worker::v1::CommitAttemptResponse response;
    return Call(*worker_, &worker::v1::WorkerService::Stub::CommitAttempt, request, &response);
  }
};

TEST_F(SweeperTest, OldCheckpointsOfARunningJobGoWithoutWaitingForTheirUploadsToExpire) {
  const worker::v1::Lease lease = StartJob();
  std::vector<v1::File> files;
  for (int step = 1; step <= 4; ++step) {
    files.push_back(FileOf("state.bin", "checkpoint " + std::to_string(step)));
    worker::v1::ReportItem& item = *attempts_[lease.id().uid()].add_items();
    item.set_sequence(step);
    item.mutable_checkpoint()->set_step(step);
    *item.mutable_checkpoint()->add_files() = files.back();
  }
  ReportRunning(lease);
  ASSERT_TRUE(SweepLater(std::chrono::minutes(1)).ok());
  EXPECT_TRUE(IsStored(files[0])) << "somebody may have just looked at it";
  ASSERT_TRUE(SweepLater(std::chrono::minutes(11)).ok());
  EXPECT_FALSE(IsStored(files[0]));
  EXPECT_FALSE(IsStored(files[1]));
  EXPECT_TRUE(IsStored(files[2]));
  EXPECT_TRUE(IsStored(files[3]));
}

TEST_F(SweeperTest, AnAbandonedUploadGoesWhenItExpiresAndNotBefore) {
  const v1::File file = FileOf("a", "nobody took it");
  ASSERT_TRUE(SweepLater(std::chrono::hours(23)).ok());
  EXPECT_TRUE(IsStored(file));
  ASSERT_TRUE(SweepLater(std::chrono::hours(25)).ok());
  EXPECT_FALSE(IsStored(file));
}

TEST_F(SweeperTest, OnePassDrainsWhateverHasPiledUp) {
  constexpr int kMany = 1'203;
  std::vector<Mutation> mutations;
  for (int i = 0; i < kMany; ++i) {
    const std::string uid = NewUuid7();
    mutations.push_back(InsertObject{ObjectRow{"default", uid, ObjectKey("default", uid), 1, std::string(64, '0'), 1}});
    mutations.push_back(PutUpload{UploadRow{"default", NewUuid7(), 1, std::string(64, '0'), 0, false, "", 1, 2}});
  }
  ASSERT_TRUE(services().coordinator->Write(std::move(mutations)).ok());
  ASSERT_TRUE(Sweeper::SweepOnce(services()).ok());
  const int64_t now_ms = ToUnixMillis(SystemClock().WallNow());
  EXPECT_TRUE(services().store().ListUnownedObjects(now_ms, 1)->empty());
  EXPECT_TRUE(services().store().ListExpiredUploads(now_ms, 1)->empty());
  EXPECT_TRUE(services().store().ListDoomedKeys(now_ms, "", 1)->empty());
}

TEST_F(SweeperTest, BytesThatTheStoreWouldNotDeleteAreTriedAgainAndKeepNobodyUp) {
  MemoryObjectStore objects;
  std::vector<Mutation> mutations;
  for (const char* uid : {"a", "b"}) {
    ASSERT_TRUE(objects.Put(ObjectKey("default", uid), "x", PutMode::kCreate).ok());
    mutations.push_back(InsertObject{ObjectRow{"default", uid, ObjectKey("default", uid), 1, std::string(64, '0'), 1}});
  }
  ASSERT_TRUE(services().coordinator->Write(std::move(mutations)).ok());
  ServiceContext context = services();
  context.objects = &objects;
  objects.FailNext("Delete", Unavailable("STORE_AWAY", "the object store does not answer"));
  EXPECT_EQ(Sweeper::SweepOnce(context).reason(), "STORE_AWAY");
  EXPECT_TRUE(objects.Head(ObjectKey("default", "a")).ok());
  EXPECT_FALSE(objects.Head(ObjectKey("default", "b")).ok()) << "one failure held up the rest";
  ASSERT_TRUE(Sweeper::SweepOnce(context).ok());
  EXPECT_FALSE(objects.Head(ObjectKey("default", "a")).ok()) << "the bytes were forgotten";
}

TEST_F(SweeperTest, AManifestWhoseCommitFailedIsSweptAndACommittedOneStays) {
  const worker::v1::Lease lease = StartJob();
  ReportRunning(lease);
  const std::string key = "projects/default/manifests/" + GetJob("first").uid() + "/" + std::to_string(lease.id().epoch()) + ".json";
  EXPECT_TRUE(Fails(CommitAs("another", lease), grpc::FAILED_PRECONDITION, "LEASE_FENCED"));
  ASSERT_TRUE(services().objects->Head(key).ok()) << "the manifest goes first";
  ASSERT_TRUE(SweepLater(std::chrono::hours(25)).ok());
  EXPECT_FALSE(services().objects->Head(key).ok());
  const grpc::Status committed = CommitAs("agent", lease);
  ASSERT_TRUE(committed.ok()) << FromGrpc(committed);
  ASSERT_TRUE(SweepLater(std::chrono::hours(50)).ok());
  EXPECT_TRUE(services().objects->Head(key).ok());
}

}  // namespace
}  // namespace sbora::server
