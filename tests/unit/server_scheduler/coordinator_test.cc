#include "server/scheduler/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>
#include <set>
#include <thread>
#include <utility>

#include "common/file.h"
#include "server/store/sqlite_store.h"

namespace sbora::server {
namespace {

using core::JobState;

/// The real store, whose commits can be made to fail.
class FailingStore : public Store {
 public:
  explicit FailingStore(std::unique_ptr<Store> real) : real_(std::move(real)) {}
  std::atomic<bool> failing = false;
  /// Called by the next GetResource, before it looks.
  mutable std::function<void()> before_next_resource;

  StatusOr<std::vector<Status>> Commit(std::span<const WriteSet* const> batch) override {
    if (failing) return ResourceExhausted("NO_SPACE", "the disk is full");
    return real_->Commit(batch);
  }
  StatusOr<ActiveState> LoadActive() const override { return real_->LoadActive(); }
  StatusOr<Work> GetWork(std::string_view n) const override { return real_->GetWork(n); }
  StatusOr<Work> GetWorkByUid(std::string_view u) const override { return real_->GetWorkByUid(u); }
  StatusOr<std::optional<Work>> FindCommittedBy(std::string_view l) const override { return real_->FindCommittedBy(l); }
  StatusOr<std::map<JobState, int64_t>> CountWork(std::string_view project, WorkKind kind) const override {
    return real_->CountWork(project, kind);
  }
  StatusOr<Page<Work>> ListWork(const WorkQuery& q) const override { return real_->ListWork(q); }
  StatusOr<std::vector<EventRow>> ListEvents(std::string_view w, int64_t a, int l) const override {
    return real_->ListEvents(w, a, l);
  }
  StatusOr<std::vector<StreamItem>> ListStream(std::string_view w, int64_t a, int l) const override {
    return real_->ListStream(w, a, l);
  }
  StatusOr<std::vector<MetricRow>> ListMetrics(std::string_view w, int64_t a, int l) const override {
    return real_->ListMetrics(w, a, l);
  }
  StatusOr<std::vector<CheckpointRow>> ListCheckpoints(std::string_view w, int64_t a, int l) const override {
    return real_->ListCheckpoints(w, a, l);
  }
  StatusOr<ResourceRow> GetResource(std::string_view n) const override {
    if (const auto first = std::exchange(before_next_resource, {})) first();
    return real_->GetResource(n);
  }
  StatusOr<Page<ResourceRow>> ListResources(ResourceKind k, std::string_view p, int s,
                                            std::string_view c) const override {
    return real_->ListResources(k, p, s, c);
  }
  StatusOr<bool> IsNameTaken(std::string_view n) const override { return real_->IsNameTaken(n); }
  StatusOr<std::optional<RequestRow>> FindRequest(std::string_view p, std::string_view r) const override {
    return real_->FindRequest(p, r);
  }
  StatusOr<HeldRegions> ListRegions(std::string_view project, std::string_view base_hash) const override {
    return real_->ListRegions(project, base_hash);
  }
  StatusOr<std::optional<RegionRow>> FindRegions(std::string_view adapter) const override {
    return real_->FindRegions(adapter);
  }
  StatusOr<UploadRow> GetUpload(std::string_view u) const override { return real_->GetUpload(u); }
  StatusOr<std::vector<UploadRow>> ListExpiredUploads(int64_t n, int l) const override {
    return real_->ListExpiredUploads(n, l);
  }
  StatusOr<ObjectRow> GetObject(std::string_view u) const override { return real_->GetObject(u); }
  StatusOr<std::vector<ObjectRow>> ListUnownedObjects(int64_t b, int l) const override {
    return real_->ListUnownedObjects(b, l);
  }
  StatusOr<std::vector<std::string>> ListDoomedKeys(int64_t n, std::string_view a, int l) const override {
    return real_->ListDoomedKeys(n, a, l);
  }
  StatusOr<std::vector<WorkerRow>> ListWorkers() const override { return real_->ListWorkers(); }
  StatusOr<int> SchemaVersion() const override { return real_->SchemaVersion(); }
  std::string_view kind() const override { return "failing"; }

 private:
  std::unique_ptr<Store> real_;
};

class CoordinatorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto directory = TempDirectory::Create(::testing::TempDir(), "coordinator");
    ASSERT_TRUE(directory.ok());
    directory_ = std::make_unique<TempDirectory>(std::move(*directory));
    auto store = OpenSqliteStore({.path = directory_->path() / "sbora.db", .readers = 4});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::make_unique<FailingStore>(std::move(*store));
    CoordinatorOptions options;
    options.store = store_.get();
    options.config.poll_idle = PollIdle();
    options.config.poll_busy = PollBusy();
    options.on_serving = [this](bool serving) {
      std::lock_guard lock(mutex_);
      history_.push_back(serving);
      changed_.notify_all();
    };
    auto coordinator = Coordinator::Start(std::move(options));
    ASSERT_TRUE(coordinator.ok()) << coordinator.status();
    coordinator_ = std::move(*coordinator);
  }

  /// How long a call without news is held.
  virtual Duration PollIdle() const { return std::chrono::milliseconds(300); }
  virtual Duration PollBusy() const { return std::chrono::seconds(1); }

  static SubmitRequest Request(const std::string& id, const std::string& request_id = "") {
    SubmitRequest request;
    request.project = "default";
    request.id = id;
    request.name = "projects/default/fineTuningJobs/" + id;
    request.validated = true;
    request.request_id = request_id;
    request.request_hash = "hash";
    request.payload = {.spec = "spec " + id, .task = "task"};
    return request;
  }
  /// A job that makes an adapter, given to worker "w": what its commit will be.
  CommitRequest GrantedCommit(const std::string& id) {
    const std::string adapter = "projects/default/adapters/" + id;
    SubmitRequest request = Request(id);
    request.reserves = {adapter};
    const auto work = coordinator_->Submit(std::move(request));
    SBORA_CHECK(work.ok(), "{}", work.status().ToString());
    const auto granted = Sync(Report());
    SBORA_CHECK(granted.ok() && granted->start.size() == 1, "{}", granted.status().ToString());
    CommitRequest commit;
    commit.worker = "w";
    commit.instance_uuid = "w-1";
    commit.lease = granted->start[0].lease;
    commit.result = "done";
    commit.resources = {InsertResource{.row = {.kind = ResourceKind::kAdapter,
                                               .uid = "0190-adapter",
                                               .project = "default",
                                               .id = id,
                                               .name = adapter,
                                               .version = 1,
                                               .create_ms = 1,
                                               .payload = "adapter"},
                                       .by_work = work->row.uid}};
    return commit;
  }
  StatusOr<SyncResponse> Sync(SyncRequest request) {
    auto answer = std::make_shared<std::promise<StatusOr<SyncResponse>>>();
    auto result = answer->get_future();
    coordinator_->Synchronize(std::move(request),
                              [answer](StatusOr<SyncResponse> response) { answer->set_value(std::move(response)); });
    return result.get();
  }
  static SyncRequest Report() {
    SyncRequest request;
    request.worker = "w";
    request.instance_uuid = "w-1";
    request.slots = {{.id = "s0", .device = DeviceKind::kCpu}};
    return request;
  }
  void AwaitServing(bool serving) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(20), [&] { return history_.back() == serving; }));
  }

  std::unique_ptr<TempDirectory> directory_;
  std::unique_ptr<FailingStore> store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<bool> history_;
  std::unique_ptr<Coordinator> coordinator_;
};

TEST_F(CoordinatorTest, RacingSubmitsWithOneRequestIdMakeOneJob) {
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::set<std::string> uids;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round) {
        // Ids are made up by the server when the caller gives none, so racing calls carry different ones.
        const auto work = coordinator_->Submit(Request(fmt::format("job-{}-{}", i, round), "request-1"));
        ASSERT_TRUE(work.ok()) << work.status();
        const std::lock_guard lock(mutex);
        uids.insert(work->row.uid);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(uids.size(), 1u);
  EXPECT_EQ(store_->ListWork({.project = "default", .kinds = {}, .states = {}, .page_size = 50, .cursor = {}})->rows.size(), 1u);
  SubmitRequest other = Request("x", "request-1");
  other.request_hash = "another";
  EXPECT_EQ(coordinator_->Submit(other).status().reason(), "REQUEST_ID_REUSED");
}

TEST_F(CoordinatorTest, ARepeatNeverAnswersWithANamesake) {
  const auto first = coordinator_->Submit(Request("a", "request-1"));
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE(coordinator_->Cancel(first->row.name, 0).ok());
  EXPECT_EQ(coordinator_->Submit(Request("a", "request-1"))->row.uid, first->row.uid);
  ASSERT_TRUE(coordinator_->Delete(first->row.name, 0).ok());
  EXPECT_EQ(coordinator_->Submit(Request("a", "request-1")).status().reason(), "REQUEST_RESULT_DELETED");
  ASSERT_TRUE(coordinator_->Submit(Request("a", "request-2")).ok());
  EXPECT_EQ(coordinator_->Submit(Request("a", "request-1")).status().reason(), "REQUEST_RESULT_DELETED");
  // After its days it is a new request.
  ASSERT_TRUE(coordinator_->Write({PruneRequests{ToUnixMillis(SystemClock().WallNow()) + 1}}).ok());
  EXPECT_EQ(coordinator_->Submit(Request("a", "request-1")).status().reason(), "NAME_TAKEN");
}

TEST_F(CoordinatorTest, RacingSubmitsOfOneNameMakeOneJob) {
  std::atomic<int> made = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto work = coordinator_->Submit(Request("same"));
      if (work.ok()) {
        ++made;
      } else {
        EXPECT_EQ(work.status().reason(), "NAME_TAKEN") << work.status();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(made, 1);
}

TEST_F(CoordinatorTest, AHeldCallIsAnsweredInTimeWhenNothingHappens) {
  const auto idle = Sync(Report());
  ASSERT_TRUE(idle.ok());
  EXPECT_TRUE(idle->start.empty());
}

/// Whose calls are held until something happens, however slow the machine is.
class HeldCallTest : public CoordinatorTest {
 protected:
  void SetUp() override {
    CoordinatorTest::SetUp();
    ASSERT_TRUE(Sync(Report()).ok());  // a worker's first call is answered at once: it is known
  }
  Duration PollIdle() const override { return std::chrono::hours(1); }
  Duration PollBusy() const override { return std::chrono::hours(1); }
};

TEST_F(HeldCallTest, IsAnsweredWhenWorkArrives) {
  std::promise<StatusOr<SyncResponse>> answer;
  auto result = answer.get_future();
  coordinator_->Synchronize(Report(), [&](StatusOr<SyncResponse> response) { answer.set_value(std::move(response)); });
  ASSERT_TRUE(coordinator_->Submit(Request("a")).ok());
  const auto response = result.get();
  ASSERT_TRUE(response.ok());
  ASSERT_EQ(response->start.size(), 1u);
  EXPECT_EQ(response->start[0].payload->spec, "spec a");
}

TEST_F(HeldCallTest, IsAnsweredWhenTheLastPartOfItsGangIsReady) {
  SubmitRequest gang = Request("gang");
  gang.ranks = 2;
  ASSERT_TRUE(coordinator_->Submit(std::move(gang)).ok());
  SyncRequest first = Report();
  first.gang_address = "w.cluster";
  SyncRequest second = first;
  second.worker = "v";
  second.instance_uuid = "v-1";
  // The first one's call waits until the second has joined, then until its part is ready.
  for (const bool ready : {false, true}) {
    std::promise<StatusOr<SyncResponse>> answer;
    auto waiting = answer.get_future();
    coordinator_->Synchronize(first, [&](StatusOr<SyncResponse> response) { answer.set_value(std::move(response)); });
    ASSERT_TRUE(coordinator_->Write({}).ok());  // behind this the call is held
    StatusOr<SyncResponse> of_second = Sync(second);
    StatusOr<SyncResponse> of_first = waiting.get();
    for (auto [request, told] : {std::pair(&first, &of_first), std::pair(&second, &of_second)}) {
      ASSERT_TRUE(told->ok()) << told->status();
      request->acknowledged_sequence = (*told)->sequence;
      if (ready) {
        ASSERT_EQ((*told)->renewed.size(), 1u);
        EXPECT_EQ((*told)->renewed[0].rendezvous, "here:4711");
        continue;
      }
      ASSERT_EQ((*told)->start.size(), 1u);
      AttemptReport& held = request->attempts.emplace_back();
      held.lease = (*told)->start[0].lease;
      held.ready = true;
      if ((*told)->start[0].first_rank == 0) held.rendezvous = "here:4711";
    }
  }
}

TEST_F(HeldCallTest, ASecondCallOfAWorkerReplacesTheFirst) {
  std::promise<Status> first, second;
  coordinator_->Synchronize(Report(), [&](StatusOr<SyncResponse> r) { first.set_value(r.status()); });
  coordinator_->Synchronize(Report(), [&](StatusOr<SyncResponse> r) { second.set_value(r.status()); });
  EXPECT_EQ(first.get_future().get().reason(), "SYNC_REPLACED");
  ASSERT_TRUE(coordinator_->Submit(Request("a")).ok());
  EXPECT_TRUE(second.get_future().get().ok());
}

TEST_F(HeldCallTest, ACallThatIsGivenUpIsToldSo) {
  std::promise<Status> cancelled;
  const uint64_t handle =
      coordinator_->Synchronize(Report(), [&](StatusOr<SyncResponse> r) { cancelled.set_value(r.status()); });
  coordinator_->CancelSync(handle);
  EXPECT_EQ(cancelled.get_future().get().reason(), "SYNC_CANCELLED");
}

TEST_F(CoordinatorTest, CommitMakesTheAdapterInTheSameTransactionAndOnce) {
  CommitRequest commit = GrantedCommit("a");
  const std::string name = Request("a").name;
  SubmitRequest clash = Request("b");
  clash.reserves = {"projects/default/adapters/a"};
  EXPECT_EQ(coordinator_->Submit(std::move(clash)).status().reason(), "NAME_TAKEN");
  bool committed = true;
  ASSERT_TRUE(coordinator_->CheckLease(commit.lease, &committed).ok());
  EXPECT_FALSE(committed);
  ASSERT_TRUE(coordinator_->CommitAttempt(commit).ok());
  ASSERT_TRUE(coordinator_->CommitAttempt(commit).ok());
  ASSERT_TRUE(coordinator_->CheckLease(commit.lease, &committed).ok());
  EXPECT_TRUE(committed);
  commit.lease.uid = "somebody else's";
  EXPECT_EQ(coordinator_->CommitAttempt(commit).reason(), "LEASE_FENCED");
  EXPECT_EQ(store_->GetResource("projects/default/adapters/a")->payload, "adapter");
  const auto ended = coordinator_->Wait(name, SystemClock().Now() + std::chrono::seconds(5));
  ASSERT_TRUE(ended.ok());
  EXPECT_EQ(ended->row.state, JobState::kSucceeded);
  EXPECT_EQ(coordinator_->Cancel(name, 0).status().reason(), "JOB_ENDED");
  EXPECT_TRUE(coordinator_->Delete(name, 0).ok());
  EXPECT_EQ(coordinator_->Cancel(name, 0).status().reason(), "WORK_NOT_FOUND");
}

// An agent repeats a commit whose answer is late, while the first is still under way.
TEST_F(CoordinatorTest, ARepeatThatTheFirstCommitOvertakesIsOk) {
  const CommitRequest commit = GrantedCommit("a");
  Status first;
  store_->before_next_resource = [&] { first = coordinator_->CommitAttempt(commit); };
  const Status repeat = coordinator_->CommitAttempt(commit);
  EXPECT_TRUE(first.ok()) << first;
  EXPECT_TRUE(repeat.ok()) << repeat;
  EXPECT_EQ(store_->GetWork(Request("a").name)->row.state, JobState::kSucceeded);
}

TEST_F(CoordinatorTest, ATaskThatNoAgentTakesIsRefusedWithItsSize) {
  SubmitRequest request = Request("large");
  request.payload.task = std::string(kMaxTaskBytes + 1, 't');
  const Status refused = coordinator_->Submit(request).status();
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument) << refused;
  EXPECT_EQ(refused.reason(), "TASK_TOO_LARGE") << refused;
  for (const std::string& part : {request.name, fmt::format("has {} bytes", kMaxTaskBytes + 1), fmt::format("at most {}", kMaxTaskBytes),
                                  std::string("a smaller rank")}) {
    EXPECT_THAT(refused.message(), ::testing::HasSubstr(part));
  }
  EXPECT_EQ(store_->GetWork(request.name).status().code(), StatusCode::kNotFound);
  request.payload.task.pop_back();
  EXPECT_TRUE(coordinator_->Submit(request).ok());
}

TEST_F(CoordinatorTest, AValidationThatComesTooLateChangesNothing) {
  SubmitRequest request = Request("a");
  request.validated = false;
  ASSERT_TRUE(coordinator_->Submit(request).ok());
  const EventItem found{.time_ms = 1, .level = 1, .type = "DATA_CHECKED", .message = "fine"};
  const Failure failure{.code = 3, .reason = "INVALID_DATASET", .message = "not fine"};
  ASSERT_TRUE(coordinator_->MarkValidated(request.name, found).ok());
  for (const Status& late : {coordinator_->MarkValidated(request.name, found), coordinator_->FailValidation(request.name, failure)}) {
    EXPECT_EQ(late.code(), StatusCode::kFailedPrecondition) << late;
    EXPECT_EQ(late.reason(), "NOT_VALIDATING") << late;
    EXPECT_EQ(late.message(), request.name + " is QUEUED, not VALIDATING");
  }
  EXPECT_EQ(store_->GetWork(request.name)->row.state, JobState::kQueued);
  ASSERT_TRUE(coordinator_->Cancel(request.name, 0).ok());
  EXPECT_EQ(coordinator_->FailValidation(request.name, failure).reason(), "JOB_ENDED");
}

TEST_F(CoordinatorTest, AFailedCommitStopsServingAndNothingAcceptedIsLost) {
  ASSERT_TRUE(coordinator_->Submit(Request("kept")).ok());
  store_->failing = true;
  const Status refused = coordinator_->Submit(Request("refused")).status();
  EXPECT_EQ(refused.reason(), "NOT_SERVING");
  EXPECT_NE(refused.message().find("the disk is full"), std::string::npos) << refused;
  AwaitServing(false);
  const Status later = coordinator_->Cancel("projects/default/fineTuningJobs/kept", 0).status();
  EXPECT_EQ(later.reason(), "NOT_SERVING");
  EXPECT_NE(later.message().find("the disk is full"), std::string::npos) << later;
  EXPECT_EQ(Sync(Report()).status().code(), StatusCode::kUnavailable);
  store_->failing = false;
  AwaitServing(true);
  EXPECT_EQ(store_->GetWork("projects/default/fineTuningJobs/refused").status().code(), StatusCode::kNotFound);
  const auto granted = Sync(Report());
  ASSERT_TRUE(granted.ok()) << granted.status();
  ASSERT_EQ(granted->start.size(), 1u);
  EXPECT_EQ(granted->start[0].resource, "projects/default/fineTuningJobs/kept");
}

TEST_F(CoordinatorTest, CreateResourceOncePerRequestId) {
  const ResourceRow row{.kind = ResourceKind::kDataset, .uid = "u1", .project = "default", .id = "d",
                        .name = "projects/default/datasets/d", .version = 1, .create_ms = 1, .payload = "data"};
  RequestRow request;
  request.request_id = "r";
  request.hash = "h";
  bool existing = true;
  ASSERT_TRUE(coordinator_->CreateResource(row, {}, request, &existing).ok());
  EXPECT_FALSE(existing);
  ASSERT_TRUE(coordinator_->CreateResource(row, {}, request, &existing).ok());
  EXPECT_TRUE(existing);
  request.hash = "other";
  EXPECT_EQ(coordinator_->CreateResource(row, {}, request, &existing).status().reason(), "REQUEST_ID_REUSED");
  request.request_id = "r2";
  EXPECT_EQ(coordinator_->CreateResource(row, {}, request, &existing).status().reason(), "DATASET_EXISTS");
  ResourceRow namesake = row;
  namesake.uid = "u2";
  ASSERT_TRUE(coordinator_->Write({DeleteResource{.name = row.name}, InsertResource{.row = namesake, .by_work = {}}}).ok());
  request = {};
  request.request_id = "r";
  request.hash = "h";
  EXPECT_EQ(coordinator_->CreateResource(row, {}, request, &existing).status().reason(), "REQUEST_RESULT_DELETED");
}

}  // namespace
}  // namespace sbora::server
