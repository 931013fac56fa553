#include "server/store/sqlite_store.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "common/file.h"
#include "server/store/migrations.h"
#include "server/store/sqlite_db.h"
#include "server/store/sqlite_migrate.h"

namespace {

int64_t pretended_file_system = 0;  // its magic number; 0: what the kernel says

}  // namespace

/// In place of libc's: a machine that runs tests has nothing mounted over a network.
extern "C" int statfs(const char* path, struct statfs* info) noexcept {
  const auto result = static_cast<int>(::syscall(SYS_statfs, path, info));
  if (pretended_file_system != 0) info->f_type = static_cast<decltype(info->f_type)>(pretended_file_system);
  return result;
}

namespace sbora::server {
namespace {

using core::JobState;

class SqliteStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto directory = TempDirectory::Create(::testing::TempDir(), "store");
    ASSERT_TRUE(directory.ok());
    directory_ = std::make_unique<TempDirectory>(std::move(*directory));
    path_ = directory_->path() / "sbora.db";
    Open();
  }
  void Open() {
    store_.reset();
    auto store = OpenSqliteStore({.path = path_, .readers = 2});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
  }
  Status Write(std::vector<Mutation> mutations, bool may_fail = true) {
    const WriteSet set{.mutations = std::move(mutations), .may_fail = may_fail};
    const WriteSet* const sets[] = {&set};
    auto result = store_->Commit(sets);
    return result.ok() ? result->front() : result.status();
  }
  std::vector<ObjectRow> UnownedObjects(int64_t created_before_ms, int limit) {
    auto rows = store_->ListUnownedObjects(created_before_ms, limit);
    EXPECT_TRUE(rows.ok()) << rows.status();
    return rows.ok() ? *std::move(rows) : std::vector<ObjectRow>();
  }
  static WorkRow Row(const std::string& id, WorkKind kind = WorkKind::kTrain, JobState state = JobState::kQueued) {
    WorkRow row;
    row.uid = "uid-" + id;
    row.kind = kind;
    row.project = "default";
    row.id = id;
    row.name = "projects/default/fineTuningJobs/" + id;
    row.version = 1;
    row.state = state;
    return row;
  }
  static PutWork Insert(WorkRow row, std::vector<std::string> uses = {}, std::vector<std::string> reserves = {}) {
    return {.row = std::move(row),
            .payload = std::make_shared<WorkPayload>(WorkPayload{.spec = std::string("s\0x", 3), .task = "t"}),
            .uses = std::move(uses),
            .reserves = std::move(reserves)};
  }
  static PutWork Update(WorkRow row) { return {.row = std::move(row), .payload = nullptr, .uses = {}, .reserves = {}}; }
  static ResourceRow Model(const std::string& id) {
    return {.kind = ResourceKind::kModel, .uid = "m-" + id, .project = "default", .id = id,
            .name = "projects/default/models/" + id, .version = 1, .create_ms = 5, .payload = "model"};
  }

  std::unique_ptr<TempDirectory> directory_;
  std::filesystem::path path_;
  std::unique_ptr<Store> store_;
};

TEST_F(SqliteStoreTest, EveryFieldComesBack) {
  WorkRow row = Row("a");
  row.priority = -3;
  row.ranks = 4;
  row.device = DeviceKind::kCuda;
  row.max_queue_ms = 1;
  row.max_attempt_ms = 2;
  row.max_total_ms = 3;
  row.create_ms = 4;
  row.request_id = "r";
  ASSERT_TRUE(Write({Insert(row)}).ok());
  EXPECT_EQ(store_->GetWork(row.name)->row, row);
  EXPECT_EQ(store_->GetWork(row.name)->payload->spec, std::string("s\0x", 3));
  row.version = 2;
  row.generation = 3;
  row.state = JobState::kRunning;
  row.reason = core::TerminationReason::kHang;
  row.failure = {.code = 13, .reason = "R", .message = "m"};
  row.epoch = 7;
  row.attempt = 6;
  row.recovery_count = 5;
  row.failed_attempts = 2;
  row.backoff_steps = 3;
  row.sequence = 99;
  row.total_ms = 1000;
  row.queued_ms = 10;
  row.start_ms = 11;
  row.end_ms = 12;
  row.worker = "w";
  row.resolved_device = "cuda";
  row.checkpoint_step = 40;
  row.checkpoint_files = std::string("\0f", 2);
  row.committed_lease = "l";
  row.result = std::string("\0r", 2);
  const LeaseRow lease{.id = {.uid = "l", .epoch = 7}, .work_uid = row.uid, .worker = "w", .instance_uuid = "i",
                       .attempt = 6, .slots = {"s0", "s1"}, .stop = StopReason::kPause, .acknowledged_item = 8,
                       .start_checkpoint_step = 30, .running_ms = 5, .first_rank = 2};
  const WorkerRow worker{.name = "w", .instance_uuid = "i", .state = WorkerState::kDraining, .drain_asked = true,
                         .version = "1", .host = "h", .slots_total = 2, .gpus = {"A", "B"}, .last_seen_ms = 3};
  ASSERT_TRUE(Write({Update(row), PutLease{lease}, PutWorker{worker}}).ok());
  Open();
  const auto active = store_->LoadActive();
  ASSERT_TRUE(active.ok()) << active.status();
  ASSERT_EQ(active->works.size(), 1u);
  EXPECT_EQ(active->works[0].row, row);
  EXPECT_THAT(active->leases, ::testing::ElementsAre(lease));
  EXPECT_THAT(active->workers, ::testing::ElementsAre(worker));
  EXPECT_EQ(store_->FindCommittedBy("l")->value().row.uid, row.uid);
  EXPECT_FALSE(store_->FindCommittedBy("")->has_value());
}

TEST_F(SqliteStoreTest, AFolderOnANetworkFileSystemIsRefusedBeforeAnythingIsWritten) {
  const std::filesystem::path folder = directory_->path() / "mounted";
  std::filesystem::create_directory(folder);
  const std::pair<int64_t, const char*> systems[] = {{0x6969, "NFS"},         {0x517B, "SMB"},      {0xFF534D42, "CIFS"},
                                                     {0xFE534D42, "SMB2"},    {0x00C36400, "Ceph"}, {0x5346414F, "AFS"},
                                                     {0x0BD00BD0, "Lustre"}};
  for (const auto& [magic, system] : systems) {
    pretended_file_system = magic;
    const Status refused = OpenSqliteStore({.path = folder / "sbora.db"}).status();
    pretended_file_system = 0;
    EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition) << refused;
    EXPECT_EQ(refused.reason(), "STORE_ON_NETWORK_FILE_SYSTEM") << refused;
    EXPECT_THAT(refused.message(), ::testing::HasSubstr(fmt::format("{} is on {},", folder.string(), system)));
    EXPECT_THAT(refused.message(), ::testing::HasSubstr("put --data-dir on a local disk"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST_F(SqliteStoreTest, ALeaseEndsOnce) {
  const WorkRow row = Row("a");
  const LeaseRow lease{.id = {.uid = "l", .epoch = 1}, .work_uid = row.uid, .worker = "w", .instance_uuid = "i", .attempt = 1,
                       .slots = {"s0"}};
  ASSERT_TRUE(Write({Insert(row), PutLease{lease}}).ok());
  ASSERT_TRUE(Write({DeleteLease{.uid = "l"}}).ok());
  const Status gone = Write({DeleteLease{.uid = "l"}});
  EXPECT_EQ(gone.code(), StatusCode::kNotFound) << gone;
  EXPECT_EQ(gone.reason(), "LEASE_NOT_FOUND") << gone;
  EXPECT_EQ(gone.message(), "lease l does not exist");
  const Status parted = Write({DeleteLease{.uid = "l"}}, /*may_fail=*/false);
  EXPECT_EQ(parted.reason(), "LEASE_NOT_FOUND") << parted;
  EXPECT_THAT(parted.message(), ::testing::HasSubstr("the scheduler's memory and the store have parted"));
}

TEST_F(SqliteStoreTest, AnUpdateOfAnotherVersionOrOfEndedWorkIsRefused) {
  WorkRow row = Row("a");
  ASSERT_TRUE(Write({Insert(row)}).ok());
  row.version = 3;
  EXPECT_EQ(Write({Update(row)}).reason(), "WORK_MOVED_ON");
  row.version = 2;
  row.state = JobState::kSucceeded;
  ASSERT_TRUE(Write({Update(row)}).ok());
  row.version = 3;
  row.state = JobState::kQueued;
  EXPECT_EQ(Write({Update(row)}).reason(), "WORK_MOVED_ON");
}

TEST_F(SqliteStoreTest, AFailedPreconditionUndoesItsSetAlone) {
  const WriteSet good{.mutations = {Insert(Row("a"))}, .may_fail = true};
  const WriteSet bad{.mutations = {Insert(Row("b")), Insert(Row("a"))}, .may_fail = true};
  const WriteSet good_too{.mutations = {Insert(Row("c"))}, .may_fail = true};
  const WriteSet* const sets[] = {&good, &bad, &good_too};
  const auto results = store_->Commit(sets);
  ASSERT_TRUE(results.ok());
  EXPECT_TRUE((*results)[0].ok());
  EXPECT_EQ((*results)[1].reason(), "NAME_TAKEN");
  EXPECT_TRUE((*results)[2].ok());
  EXPECT_TRUE(store_->GetWork(Row("a").name).ok());
  EXPECT_EQ(store_->GetWork(Row("b").name).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(store_->GetWork(Row("c").name).ok());
  // A scheduler's set that fails takes the whole batch with it.
  const WriteSet fatal{.mutations = {Insert(Row("a"))}, .may_fail = false};
  const WriteSet innocent{.mutations = {Insert(Row("d"))}, .may_fail = true};
  const WriteSet* const parted[] = {&innocent, &fatal};
  EXPECT_FALSE(store_->Commit(parted).ok());
  EXPECT_EQ(store_->GetWork(Row("d").name).status().code(), StatusCode::kNotFound);
}

TEST_F(SqliteStoreTest, AViolatedConstraintFailsItsSetAlone) {
  ResourceRow twin = Model("twin");
  twin.uid = Model("first").uid;
  const WriteSet first{.mutations = {InsertResource{Model("first"), ""}}, .may_fail = true};
  const WriteSet same_uid{.mutations = {InsertResource{twin, ""}}, .may_fail = true};
  const WriteSet last{.mutations = {InsertResource{Model("last"), ""}}, .may_fail = true};
  const WriteSet* const sets[] = {&first, &same_uid, &last};
  const auto results = store_->Commit(sets);
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_TRUE((*results)[0].ok());
  EXPECT_EQ((*results)[1].reason(), "STORE_CONSTRAINT");
  EXPECT_EQ((*results)[1].code(), StatusCode::kInternal);
  EXPECT_TRUE((*results)[2].ok());
  EXPECT_TRUE(store_->GetResource(Model("last").name).ok());
}

TEST_F(SqliteStoreTest, OneLeaseOfEachPartAtMostAndAllOfOneEpoch) {
  ASSERT_TRUE(Write({Insert(Row("a"))}).ok());
  LeaseRow lease;
  lease.id = {.uid = "l1", .epoch = 1};
  lease.work_uid = "uid-a";
  ASSERT_TRUE(Write({PutLease{lease}}).ok());
  lease.id = {.uid = "l2", .epoch = 1};
  EXPECT_EQ(Write({PutLease{lease}}).reason(), "STORE_CONSTRAINT") << "two leases with rank 0";
  lease.first_rank = 2;
  ASSERT_TRUE(Write({PutLease{lease}}).ok());
  lease.stop = StopReason::kGangEnded;
  ASSERT_TRUE(Write({PutLease{lease}}).ok()) << "the same lease again";
  lease.id = {.uid = "l3", .epoch = 2};
  lease.first_rank = 4;
  EXPECT_EQ(Write({PutLease{lease}}).reason(), "STORE_CONSTRAINT") << "a part of an older gang is left";
  EXPECT_EQ(Write({DeleteLease{"l1"}, PutLease{lease}}).reason(), "STORE_CONSTRAINT") << "a part of an older gang is left";
  EXPECT_TRUE(Write({DeleteLease{"l1"}, DeleteLease{"l2"}, PutLease{lease}}).ok());
}

TEST_F(SqliteStoreTest, ALeaseFromBeforeGangsOverWorkersLeads) {
  const std::filesystem::path path = directory_->path() / "older.db";
  {
    StatusOr<SqliteDb> db = SqliteDb::Open(path, /*read_only=*/false);
    ASSERT_TRUE(db.ok()) << db.status();
    ASSERT_TRUE(Migrate(*db, Migrations().first(3)).ok());
    const Status old = db->Script(
        "INSERT INTO projects VALUES ('default');"
        "INSERT INTO works VALUES ('uid-a',1,'default','a','projects/default/fineTuningJobs/a',1,4,0,0,'','',3,2,0,0,0,0,0,2,0,0,0,0,0,"
        "0,0,0,0,'w','',-1,x'','',x'','',1);"
        "INSERT INTO work_payloads VALUES ('uid-a','default','s','t');"
        "INSERT INTO leases VALUES ('l','uid-a','default',3,'w','i',2,'s0' || char(10) || 's1',2,7,20,90);");
    ASSERT_TRUE(old.ok()) << old;
  }
  const auto store = OpenSqliteStore({.path = path, .readers = 1});
  ASSERT_TRUE(store.ok()) << store.status();
  const LeaseRow lease{.id = {.uid = "l", .epoch = 3}, .work_uid = "uid-a", .worker = "w", .instance_uuid = "i", .attempt = 2,
                       .slots = {"s0", "s1"}, .stop = StopReason::kPause, .acknowledged_item = 7, .start_checkpoint_step = 20,
                       .running_ms = 90, .first_rank = 0};
  EXPECT_THAT((*store)->LoadActive()->leases, ::testing::ElementsAre(lease));
}

TEST_F(SqliteStoreTest, UsedResourcesStayAndReservedNamesAreTaken) {
  ASSERT_TRUE(Write({InsertResource{.row = Model("m"), .by_work = {}}}).ok());
  const std::string adapter = "projects/default/adapters/a";
  EXPECT_EQ(Write({Insert(Row("x"), {"projects/default/models/none"})}).reason(), "RESOURCE_NOT_FOUND");
  WorkRow row = Row("a");
  ASSERT_TRUE(Write({Insert(row, {Model("m").name}, {adapter})}).ok());
  EXPECT_EQ(Write({DeleteResource{.name = Model("m").name}}).reason(), "MODEL_IN_USE");
  EXPECT_TRUE(*store_->IsNameTaken(adapter));
  ResourceRow made = Model("a");
  made.kind = ResourceKind::kAdapter;
  made.name = adapter;
  EXPECT_EQ(Write({InsertResource{.row = made, .by_work = "other"}}).reason(), "ADAPTER_EXISTS");
  row.version = 2;
  row.state = JobState::kSucceeded;
  ASSERT_TRUE(Write({Update(row), InsertResource{.row = made, .by_work = row.uid}}).ok());
  EXPECT_EQ(Write({DeleteResource{.name = Model("m").name, .tag = ChangeTag("a namesake", 1)}}).reason(), "ETAG_MISMATCH");
  EXPECT_TRUE(Write({DeleteResource{.name = Model("m").name, .tag = Model("m").ChangeTag()}}).ok());
  EXPECT_EQ(*store_->GetResource(adapter), made);
}

TEST_F(SqliteStoreTest, ListsPageNewestFirstAndFilter) {
  for (int i = 0; i < 25; ++i) {
    ASSERT_TRUE(Write({Insert(Row(fmt::format("j{:02}", i), i % 5 == 0 ? WorkKind::kEvaluate : WorkKind::kTrain,
                                  i % 2 == 0 ? JobState::kQueued : JobState::kFailed))})
                    .ok());
  }
  const auto all = [&](WorkQuery query) {
    std::vector<std::string> ids;
    query.project = "default";
    query.page_size = 3;
    do {
      auto page = store_->ListWork(query);
      EXPECT_TRUE(page.ok());
      EXPECT_LE(page->rows.size(), 3u);
      for (const Work& work : page->rows) ids.push_back(work.row.id);
      query.cursor = page->next_cursor;
    } while (!query.cursor.empty());
    return ids;
  };
  std::vector<std::string> ids = all({});
  EXPECT_EQ(ids.size(), 25u);
  EXPECT_TRUE(std::is_sorted(ids.rbegin(), ids.rend()));
  EXPECT_EQ(all({.project = {}, .kinds = {WorkKind::kEvaluate}, .states = {}, .page_size = 3, .cursor = {}}).size(), 5u);
  ids = all({.project = {}, .kinds = {WorkKind::kTrain}, .states = {JobState::kFailed, JobState::kPaused}, .page_size = 3, .cursor = {}});
  EXPECT_EQ(ids.size(), 10u);
  EXPECT_TRUE(std::is_sorted(ids.rbegin(), ids.rend()));
}

TEST_F(SqliteStoreTest, WithoutAProjectAllOfThemAreListed) {
  WorkRow other = Row("b", WorkKind::kTrain, JobState::kValidating);
  other.project = "other";
  ASSERT_TRUE(Write({Insert(Row("a", WorkKind::kTrain, JobState::kValidating)), Insert(other), Insert(Row("c"))}).ok());
  auto page = store_->ListWork({.project = {}, .kinds = {WorkKind::kTrain}, .states = {JobState::kValidating}, .page_size = 1, .cursor = {}});
  ASSERT_TRUE(page.ok()) << page.status();
  ASSERT_EQ(page->rows.size(), 1u);
  EXPECT_EQ(page->rows[0].row.id, "b");
  page = store_->ListWork(
      {.project = {}, .kinds = {WorkKind::kTrain}, .states = {JobState::kValidating}, .page_size = 1, .cursor = page->next_cursor});
  ASSERT_TRUE(page.ok()) << page.status();
  ASSERT_EQ(page->rows.size(), 1u);
  EXPECT_EQ(page->rows[0].row.id, "a");
  EXPECT_EQ(page->next_cursor, "");
  const auto counts = store_->CountWork("default", WorkKind::kTrain);
  ASSERT_TRUE(counts.ok()) << counts.status();
  EXPECT_EQ(*counts, (std::map<JobState, int64_t>{{JobState::kValidating, 1}, {JobState::kQueued, 1}}));
}

TEST_F(SqliteStoreTest, AnUploadIsFinishedOnceAndNotAfterTheSweep) {
  UploadRow row{.project = "default", .uid = "u", .size_bytes = 1, .sha256 = "s", .received_bytes = 0, .finished = false,
                .object_uid = {}, .create_ms = 1, .expire_ms = 2};
  ASSERT_TRUE(Write({PutUpload{row}}).ok());
  UploadRow finished = row;
  finished.finished = true;
  finished.object_uid = "o";
  EXPECT_TRUE(Write({PutUpload{finished}}).ok());
  EXPECT_EQ(store_->GetUpload("u")->object_uid, "o");
  EXPECT_EQ(Write({PutUpload{finished}}).reason(), "UPLOAD_CLOSED");
  ASSERT_TRUE(Write({DeleteUpload{"u"}}).ok());
  EXPECT_EQ(Write({PutUpload{finished}}).reason(), "UPLOAD_CLOSED");
  EXPECT_EQ(store_->GetUpload("u").status().reason(), "UPLOAD_NOT_FOUND");
}

TEST_F(SqliteStoreTest, AnImportThatEndsLetsGoOfWhatItRead) {
  const auto end = [&](WorkKind kind, const std::string& id) {
    const ObjectRow object{"default", "o-" + id, "key-" + id, 1, "s", 1};
    WorkRow row = Row(id, kind);
    EXPECT_TRUE(Write({InsertObject{object}, Insert(row), AddObjectOwner{object.uid, row.uid}}).ok());
    row.version = 2;
    row.state = JobState::kFailed;
    EXPECT_TRUE(Write({Update(row)}).ok());
  };
  end(WorkKind::kImport, "import");
  end(WorkKind::kTrain, "train");  // keeps its checkpoints
  const auto unowned = store_->ListUnownedObjects(100, 10);
  ASSERT_TRUE(unowned.ok());
  ASSERT_EQ(unowned->size(), 1u);
  EXPECT_EQ(unowned->front().uid, "o-import");
}

TEST_F(SqliteStoreTest, MetricsShowTheNewestAttemptOfEachStep) {
  ASSERT_TRUE(Write({Insert(Row("a"))}).ok());
  const auto metric = [](int attempt, int64_t step, int64_t sequence) {
    return PutMetric{{.work_uid = "uid-a", .attempt = attempt, .step = step, .sequence = sequence,
                      .payload = fmt::format("{}/{}", attempt, step)}};
  };
  ASSERT_TRUE(Write({metric(1, 1, 1), metric(1, 2, 2), metric(1, 3, 3), metric(2, 2, 4), metric(2, 2, 5)}).ok());
  const auto rows = store_->ListMetrics("uid-a", -1, 10);
  ASSERT_TRUE(rows.ok());
  std::vector<std::string> payloads;
  for (const MetricRow& row : *rows) payloads.push_back(row.payload);
  EXPECT_THAT(payloads, ::testing::ElementsAre("1/1", "2/2", "1/3"));
}

TEST_F(SqliteStoreTest, ObjectsLiveWhileOwned) {
  ASSERT_TRUE(Write({Insert(Row("a"))}).ok());
  const auto object = [](const std::string& uid) {
    return InsertObject{{.project = "default", .uid = uid, .key = "k/" + uid, .size_bytes = 1, .sha256 = "h", .create_ms = 1}};
  };
  ASSERT_TRUE(Write({object("o1"), object("o2"), object("o3"), AddObjectOwner{"o1", "upload"}}).ok());
  EXPECT_EQ(Write({AddObjectOwner{"none", "x"}}).reason(), "OBJECT_NOT_FOUND");
  ASSERT_TRUE(Write({DeleteObject{"o1"}}).ok());
  EXPECT_TRUE(store_->GetObject("o1").ok()) << "an owned object stays";
  EXPECT_EQ(store_->ListUnownedObjects(2, 10)->size(), 2u);
  for (int step = 1; step <= 3; ++step) {
    ASSERT_TRUE(Write({PutCheckpoint{{.work_uid = "uid-a", .step = step, .attempt = 1, .create_ms = 1, .files = "f",
                                      .validation_loss = {}, .object_uids = {fmt::format("o{}", step)}}},
                       PruneCheckpoints{.work_uid = "uid-a", .keep = 2}})
                    .ok());
  }
  ASSERT_TRUE(Write({RemoveObjectOwner{.object_uid = {}, .owner = "upload"}}).ok());
  EXPECT_EQ(store_->ListCheckpoints("uid-a", -1, 10)->size(), 2u);
  ASSERT_EQ(store_->ListUnownedObjects(2, 10)->size(), 1u);
  EXPECT_EQ(store_->ListUnownedObjects(2, 10)->front().uid, "o1");
  ASSERT_TRUE(Write({DeleteObject{"o1"}}).ok());
  EXPECT_EQ(store_->GetObject("o1").status().reason(), "OBJECT_NOT_FOUND");
  EXPECT_THAT(*store_->ListDoomedKeys(0, "", 10), ::testing::ElementsAre("k/o1")) << "until the bytes are gone";
  ASSERT_TRUE(Write({ForgetKey{"k/o1"}}).ok());
  EXPECT_TRUE(store_->ListDoomedKeys(0, "", 10)->empty());
}

TEST_F(SqliteStoreTest, ACheckpointOrResourceTakesItsObjectsOverFromTheirUploads) {
  ASSERT_TRUE(Write({Insert(Row("a")), InsertResource{.row = Model("m"), .by_work = {}}}).ok());
  const auto uploaded = [&](const std::string& uid) {
    const ObjectRow object{.project = "default", .uid = uid, .key = "k/" + uid, .size_bytes = 1, .sha256 = "h", .create_ms = 1};
    const UploadRow upload{.project = "default", .uid = uid, .size_bytes = 1, .sha256 = "h", .received_bytes = 1,
                           .finished = true, .object_uid = uid, .create_ms = 1, .expire_ms = 1'000'000};
    UploadRow begun = upload;
    begun.finished = false;
    ASSERT_TRUE(Write({PutUpload{begun}}).ok());
    ASSERT_TRUE(Write({InsertObject{object}, AddObjectOwner{uid, uid}, PutUpload{upload}}).ok());
  };
  for (const char* uid : {"o1", "o1again", "o2", "o3", "file", "source"}) uploaded(uid);
  const auto checkpoint = [](int64_t step, const std::string& object) {
    return PutCheckpoint{{.work_uid = "uid-a", .step = step, .attempt = 1, .create_ms = 1, .files = "f", .validation_loss = {},
                          .object_uids = {object}}};
  };
  ASSERT_TRUE(Write({AddObjectOwner{"file", Model("m").name}, AddObjectOwner{"source", "uid-a"}}).ok());
  ASSERT_TRUE(Write({checkpoint(1, "o1"), checkpoint(2, "o2"), checkpoint(3, "o3")}).ok());
  EXPECT_TRUE(store_->ListUnownedObjects(2, 10)->empty());
  // The same step again, after the later ones turned out unusable: all that they held is free at once.
  ASSERT_TRUE(Write({checkpoint(1, "o1again")}).ok());
  std::vector<std::string> free;
  for (const ObjectRow& object : UnownedObjects(2, 10)) free.push_back(object.uid);
  EXPECT_THAT(free, ::testing::UnorderedElementsAre("o1", "o2", "o3"));
  ASSERT_TRUE(Write({DeleteResource{.name = Model("m").name}, RemoveObjectOwner{.object_uid = {}, .owner = "uid-a"}}).ok());
  free.clear();
  for (const ObjectRow& object : UnownedObjects(2, 10)) free.push_back(object.uid);
  EXPECT_THAT(free, ::testing::UnorderedElementsAre("o1", "o2", "o3", "o1again", "file")) << "work leaves the upload its source";
}

TEST_F(SqliteStoreTest, ADoomedKeyIsSavedByAnObjectOnly) {
  const ObjectRow object{.project = "default", .uid = "o", .key = "k", .size_bytes = 1, .sha256 = "h", .create_ms = 1};
  ASSERT_TRUE(Write({DoomKey{"default", "k", 10}, DoomKey{"default", "lost", 20}, DoomKey{"default", "lost", 5}}).ok());
  EXPECT_TRUE(store_->ListDoomedKeys(9, "", 10)->empty());
  EXPECT_THAT(*store_->ListDoomedKeys(10, "", 10), ::testing::ElementsAre("k"));
  EXPECT_THAT(*store_->ListDoomedKeys(20, "k", 10), ::testing::ElementsAre("lost"));
  ASSERT_TRUE(Write({InsertObject{object}, DoomKey{"default", "k", 0}}).ok());
  EXPECT_THAT(*store_->ListDoomedKeys(20, "", 10), ::testing::ElementsAre("lost"));
}

TEST_F(SqliteStoreTest, DeleteTakesEverythingOfEndedWork) {
  WorkRow row = Row("a");
  ASSERT_TRUE(Write({Insert(row)}).ok());
  EXPECT_EQ(Write({DeleteWork{.uid = row.uid}}).reason(), "JOB_NOT_TERMINAL");
  row.version = 2;
  row.state = JobState::kFailed;
  ASSERT_TRUE(Write({Update(row), AddEvent{{.work_uid = row.uid, .sequence = 1, .time_ms = 0, .level = 1, .type = "T",
                                            .message = "", .attempt = 0}}})
                  .ok());
  EXPECT_EQ(Write({DeleteWork{.uid = row.uid, .tag = ChangeTag(row.uid, 2)}}).reason(), "ETAG_MISMATCH");
  EXPECT_TRUE(Write({DeleteWork{.uid = row.uid, .tag = row.ChangeTag()}}).ok());
  EXPECT_TRUE(store_->ListEvents(row.uid, 0, 10)->empty());
  EXPECT_EQ(Write({DeleteWork{.uid = row.uid}}).code(), StatusCode::kNotFound);
}

TEST_F(SqliteStoreTest, ASecondServerIsRefused) {
  const auto second = OpenSqliteStore({.path = path_, .readers = 1});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().reason(), "STORE_LOCKED") << second.status();
}

TEST_F(SqliteStoreTest, AStoreOfANewerProgramIsRefused) {
  store_.reset();
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "INSERT INTO schema_version VALUES (9999, 'future')", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  const auto store = OpenSqliteStore({.path = path_, .readers = 1});
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.status().reason(), "STORE_TOO_NEW");
}

TEST_F(SqliteStoreTest, AFileThatIsNoDatabaseIsCorrupt) {
  const auto path = directory_->path() / "garbage.db";
  ASSERT_TRUE(WriteFileAtomic(path, std::string(8192, 'x')).ok());
  const auto store = OpenSqliteStore({.path = path, .readers = 1});
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.status().reason(), "STORE_CORRUPT") << store.status();
}

}  // namespace
}  // namespace sbora::server
