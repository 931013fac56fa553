// TransferService.
#include <latch>
#include <stdexcept>
#include <thread>
#include <utility>

#include "common/sha256.h"
#include "common/storage/counting_object_store.h"
#include "common/storage/memory_object_store.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using Stub = v1::TransferService::Stub;

class TransferTest : public ContractTest {
 protected:
  v1::Upload Create(const std::string& bytes) {
    v1::CreateUploadRequest request;
    request.set_parent(kProject);
    request.set_size_bytes(static_cast<int64_t>(bytes.size()));
    request.set_sha256(Sha256Hex(bytes));
    request.set_accept_presigned(true);  // a directory store cannot: the URL stays empty
    v1::Upload upload;
    EXPECT_TRUE(Call(*transfers_, &Stub::CreateUpload, request, &upload).ok());
    EXPECT_TRUE(upload.presigned_put_url().empty());
    return upload;
  }
  grpc::Status Write(const std::string& name, int64_t offset, const std::string& data, v1::Upload* upload) {
    grpc::ClientContext context;
    Prepare(context);
    const auto writer = transfers_->WriteUpload(&context, upload);
    v1::WriteUploadRequest request;
    request.set_name(name);
    request.set_offset(offset);
    request.set_data(data);
    writer->Write(request);
    writer->WritesDone();
    return writer->Finish();
  }
  grpc::Status Finish(const std::string& name, v1::Upload* upload) {
    v1::FinishUploadRequest request;
    request.set_name(name);
    return Call(*transfers_, &Stub::FinishUpload, request, upload);
  }
  grpc::Status Read(const std::string& object, int64_t offset, std::string* bytes) {
    grpc::ClientContext context;
    Prepare(context);
    v1::DownloadRequest request;
    request.set_object(object);
    request.set_offset(offset);
    const auto reader = transfers_->Download(&context, request);
    v1::DownloadResponse response;
    while (reader->Read(&response)) *bytes += response.data();
    return reader->Finish();
  }
};

TEST_F(TransferTest, BytesGoInByPiecesAndComeOutFromAnyOffset) {
  const std::string bytes = std::string(1'500'000, 'x') + "end";
  v1::Upload upload = Create(bytes);
  ASSERT_TRUE(Write(upload.name(), 0, bytes.substr(0, 1'000'000), &upload).ok());
  EXPECT_EQ(upload.received_bytes(), 1'000'000);
  EXPECT_TRUE(Fails(Finish(upload.name(), &upload), grpc::FAILED_PRECONDITION, "UPLOAD_INCOMPLETE"));
  const grpc::Status wrong = Write(upload.name(), 5, "x", &upload);
  EXPECT_TRUE(Fails(wrong, grpc::OUT_OF_RANGE, "UPLOAD_OFFSET"));
  EXPECT_THAT(FromGrpc(wrong).metadata(), ::testing::Contains(std::pair<std::string, std::string>("expected_offset", "1000000")));
  v1::GetUploadRequest get;
  get.set_name(upload.name());
  ASSERT_TRUE(Call(*transfers_, &Stub::GetUpload, get, &upload).ok());
  EXPECT_EQ(upload.received_bytes(), 1'000'000);
  ASSERT_TRUE(Write(upload.name(), 1'000'000, bytes.substr(1'000'000), &upload).ok());
  ASSERT_TRUE(Finish(upload.name(), &upload).ok());
  ASSERT_TRUE(Finish(upload.name(), &upload).ok()) << "a repeat is fine";
  EXPECT_TRUE(Fails(Write(upload.name(), 0, "x", &upload), grpc::FAILED_PRECONDITION, "UPLOAD_FINISHED"));

  const std::string object = [&] {
    v1::Upload now;
    EXPECT_TRUE(Call(*transfers_, &Stub::GetUpload, get, &now).ok());
    return now.object();
  }();
  std::string whole, tail, nothing;
  ASSERT_TRUE(Read(object, 0, &whole).ok());
  EXPECT_EQ(whole, bytes);
  ASSERT_TRUE(Read(object, 1'499'999, &tail).ok());
  EXPECT_EQ(tail, "xend");
  ASSERT_TRUE(Read(object, static_cast<int64_t>(bytes.size()), &nothing).ok());
  EXPECT_TRUE(Fails(Read(object, static_cast<int64_t>(bytes.size()) + 1, &nothing), grpc::OUT_OF_RANGE, "BAD_OFFSET"));
  v1::GetDownloadRequest url;
  url.set_object(object);
  v1::GetDownloadResponse response;
  ASSERT_TRUE(Call(*transfers_, &Stub::GetDownload, url, &response).ok());
  EXPECT_TRUE(response.presigned_get_url().empty());
}

TEST_F(TransferTest, WrongBytesAreFoundAndTheUploadStartsAgain) {
  v1::Upload upload = Create("good");
  const std::string name = upload.name();
  ASSERT_TRUE(Write(name, 0, "evil", &upload).ok());
  EXPECT_TRUE(Fails(Finish(name, &upload), grpc::DATA_LOSS, "HASH_MISMATCH"));
  ASSERT_TRUE(Write(name, 0, "good", &upload).ok());
  EXPECT_TRUE(Finish(name, &upload).ok());
}

TEST_F(TransferTest, PartsOutliveTheServer) {
  v1::Upload upload = Create("0123456789");
  const std::string name = upload.name();
  ASSERT_TRUE(Write(name, 0, "01234", &upload).ok());
  StopServer();
  StartServer();
  ASSERT_TRUE(Write(name, 5, "56789", &upload).ok());
  EXPECT_TRUE(Finish(name, &upload).ok());
}

TEST_F(TransferTest, AFinishedPartIsRenamedAndNotCopied) {
  v1::Upload upload = Create("0123456789");
  ASSERT_TRUE(Write(upload.name(), 0, "0123456789", &upload).ok());
  const std::string uid = upload.name().substr(upload.name().rfind('/') + 1);
  const std::filesystem::path data = directory_.path() / "data";
  // A second name for the bytes: it shows whether the object has them, or a copy.
  std::filesystem::create_hard_link(data / "uploads" / (uid + ".part"), data / "second-name");
  ASSERT_TRUE(Finish(upload.name(), &upload).ok());
  EXPECT_FALSE(std::filesystem::exists(data / "uploads" / (uid + ".part")));
  EXPECT_TRUE(std::filesystem::equivalent(data / "objects/projects/default/objects" / uid, data / "second-name"));
}

TEST_F(TransferTest, AFileIsHashedAsItComesAndReadAgainOnlyAfterARestart) {
  const std::string bytes = std::string(1'500'000, 'x') + "end";
  for (const bool restarted : {false, true}) {
    v1::Upload upload = Create(bytes);
    const std::string name = upload.name();
    ASSERT_TRUE(Write(name, 0, bytes.substr(0, 1'000'000), &upload).ok());
    if (restarted) {
      StopServer();
      StartServer();
    }
    ASSERT_TRUE(Write(name, 1'000'000, bytes.substr(1'000'000), &upload).ok());
    if (!restarted) {
      // No read may be needed to finish: what the file holds now goes unseen.
      const std::string uid = name.substr(name.rfind('/') + 1);
      std::filesystem::resize_file(directory_.path() / "data/uploads" / (uid + ".part"), 0);
      std::filesystem::resize_file(directory_.path() / "data/uploads" / (uid + ".part"), bytes.size());
    }
    EXPECT_TRUE(Finish(name, &upload).ok()) << restarted;
  }
}

TEST_F(TransferTest, EmptyFilesAreFiles) {
  v1::Upload upload = Create("");
  ASSERT_TRUE(Finish(upload.name(), &upload).ok());
  std::string nothing;
  EXPECT_TRUE(Read(upload.object(), 0, &nothing).ok());
}

TEST_F(TransferTest, BadInputIsNamed) {
  v1::CreateUploadRequest request;
  request.set_parent(kProject);
  request.set_size_bytes(-1);
  request.set_sha256("nonsense");
  v1::Upload upload;
  const grpc::Status bad = Call(*transfers_, &Stub::CreateUpload, request, &upload);
  EXPECT_TRUE(Fails(bad, grpc::INVALID_ARGUMENT, "INVALID_UPLOAD"));
  EXPECT_THAT(ViolatedFields(bad), ::testing::ElementsAre("size_bytes", "sha256"));
  const std::string missing = std::string(kProject) + "/uploads/" + NewUuid7();
  EXPECT_TRUE(Fails(Write(missing, 0, "x", &upload), grpc::NOT_FOUND, "UPLOAD_NOT_FOUND"));
  EXPECT_TRUE(Fails(Finish(missing, &upload), grpc::NOT_FOUND, "UPLOAD_NOT_FOUND"));
  upload = Create("abc");
  const std::string name = upload.name();
  EXPECT_TRUE(Fails(Write(name, 0, "abcd", &upload), grpc::OUT_OF_RANGE, "UPLOAD_TOO_LONG"));
  EXPECT_TRUE(Fails(Write(name, 0, std::string((1 << 20) + 1, 'x'), &upload), grpc::INVALID_ARGUMENT, "CHUNK_TOO_LARGE"));
  std::string nothing;
  EXPECT_TRUE(Fails(Read(std::string(kProject) + "/objects/" + NewUuid7(), 0, &nothing), grpc::NOT_FOUND, "OBJECT_NOT_FOUND"));
  EXPECT_TRUE(Fails(Read("../../etc/passwd", 0, &nothing), grpc::INVALID_ARGUMENT, "BAD_RESOURCE_NAME"));
}

/// The server's objects are in a store that hands out URLs; what their holder does, the test does by key.
class PresignedTest : public TransferTest {
 protected:
  void SetUp() override {
    TransferTest::SetUp();
    objects_.GivePresignedUrls();
    server_->services().objects = &objects_;
  }
  void TearDown() override { StopServer(); }  // before the store goes

  v1::Upload CreateOfSize(int64_t size_bytes, const std::string& sha256) {
    v1::CreateUploadRequest request;
    request.set_parent(kProject);
    request.set_size_bytes(size_bytes);
    request.set_sha256(sha256);
    request.set_accept_presigned(true);
    v1::Upload upload;
    const grpc::Status created = Call(*transfers_, &Stub::CreateUpload, request, &upload);
    EXPECT_TRUE(created.ok()) << FromGrpc(created);
    return upload;
  }
  v1::Upload Create(const std::string& bytes) { return CreateOfSize(static_cast<int64_t>(bytes.size()), Sha256Hex(bytes)); }
  static std::string KeyOf(const v1::Upload& upload) { return upload.presigned_put_url().substr(std::string("memory:///").size()); }
  void PutByUrl(const v1::Upload& upload, const std::string& bytes) {
    ASSERT_TRUE(objects_.Put(KeyOf(upload), bytes, PutMode::kOverwrite).ok());
  }
  /// The key of the object that the upload becomes.
  static std::string FinalKey(const v1::Upload& upload) {
    return "projects/default/objects/" + upload.name().substr(upload.name().rfind('/') + 1);
  }

  MemoryObjectStore objects_;
};

TEST_F(PresignedTest, AUrlCannotChangeWhatWasSealed) {
  const v1::Upload created = Create("good bytes");
  ASSERT_NE(KeyOf(created), FinalKey(created));
  PutByUrl(created, "good bytes");
  v1::Upload finished;
  ASSERT_TRUE(Finish(created.name(), &finished).ok());
  PutByUrl(created, "evil bytes");
  std::string bytes;
  ASSERT_TRUE(Read(finished.object(), 0, &bytes).ok());
  EXPECT_EQ(bytes, "good bytes");
  ASSERT_TRUE(Finish(created.name(), &finished).ok()) << "a repeat is fine";
  EXPECT_EQ(objects_.Get(FinalKey(created), 100).value(), "good bytes");
}

TEST_F(PresignedTest, WrongBytesByUrlAreRefusedAndMayBePutAgain) {
  const v1::Upload created = Create("good bytes");
  v1::Upload finished;
  EXPECT_TRUE(Fails(Finish(created.name(), &finished), grpc::FAILED_PRECONDITION, "UPLOAD_INCOMPLETE")) << "nothing is there yet";
  PutByUrl(created, "evil bytes");
  EXPECT_TRUE(Fails(Finish(created.name(), &finished), grpc::DATA_LOSS, "HASH_MISMATCH"));
  EXPECT_EQ(objects_.Head(FinalKey(created)).status().code(), StatusCode::kNotFound);
  PutByUrl(created, "good bytes");
  EXPECT_TRUE(Finish(created.name(), &finished).ok());
}

TEST_F(PresignedTest, AFailingStoreIsNoIncompleteUpload) {
  const v1::Upload created = Create("good bytes");
  PutByUrl(created, "good bytes");
  v1::Upload finished;
  for (const char* method : {"Copy", "Head", "GetRange"}) {
    objects_.FailNext(method, Unavailable("STORE_UNAVAILABLE", "the network is down"));
    EXPECT_TRUE(Fails(Finish(created.name(), &finished), grpc::UNAVAILABLE, "STORE_UNAVAILABLE")) << method;
  }
  EXPECT_TRUE(Finish(created.name(), &finished).ok());
}

TEST_F(PresignedTest, FilesThatS3TakesInOnePutOnlyGetAUrl) {
  const int64_t limit = int64_t{5} << 30;
  EXPECT_FALSE(CreateOfSize(limit, std::string(64, 'a')).presigned_put_url().empty());
  EXPECT_TRUE(CreateOfSize(limit + 1, std::string(64, 'a')).presigned_put_url().empty());
}

TEST_F(PresignedTest, ASealThatWasCutOffBeforeItsCommitIsTakenUp) {
  const v1::Upload created = Create("good bytes");
  ASSERT_TRUE(objects_.Put(FinalKey(created), "good bytes", PutMode::kCreate).ok());  // and nothing is staged any more
  v1::Upload finished;
  EXPECT_TRUE(Finish(created.name(), &finished).ok());
}

TEST_F(PresignedTest, RacingFinishesOfOneUploadAllSucceed) {
  const v1::Upload created = Create("good bytes");
  PutByUrl(created, "good bytes");
  std::vector<grpc::Status> answers(8);
  {
    std::vector<std::jthread> callers;
    for (grpc::Status& answer : answers) {
      callers.emplace_back([&] {
        v1::Upload finished;
        answer = Finish(created.name(), &finished);
      });
    }
  }
  for (const grpc::Status& answer : answers) EXPECT_TRUE(answer.ok()) << FromGrpc(answer);
  EXPECT_EQ(objects_.Get(FinalKey(created), 100).value(), "good bytes");
}

/// As a library below us behaves on a bad day.
class ThrowingStore final : public ObjectStore {
 public:
  Status Put(std::string_view, std::string_view, PutMode) override { throw Error(); }
  StatusOr<uint64_t> PutFile(std::string_view, const std::filesystem::path&) override { throw Error(); }
  StatusOr<std::unique_ptr<ObjectWriter>> StartMultipart(std::string_view) override { throw Error(); }
  StatusOr<std::string> Get(std::string_view, uint64_t) override { throw Error(); }
  StatusOr<std::string> GetRange(std::string_view, uint64_t, uint64_t) override { throw Error(); }
  StatusOr<uint64_t> GetToFile(std::string_view, const std::filesystem::path&) override { throw Error(); }
  StatusOr<ObjectInfo> Head(std::string_view) override { throw Error(); }
  StatusOr<ListPage> List(std::string_view, const ListOptions&) override { throw Error(); }
  Status Copy(std::string_view, std::string_view) override { throw Error(); }
  Status Delete(std::string_view) override { throw Error(); }
  StatusOr<std::string> PresignGet(std::string_view, std::chrono::seconds) override { throw Error(); }
  StatusOr<std::string> PresignPut(std::string_view, std::chrono::seconds) override { throw Error(); }

 private:
  static std::runtime_error Error() { return std::runtime_error("out of luck"); }
};

TEST_F(TransferTest, AnExceptionOnThePoolIsAnAnswerAndNoCrash) {
  const v1::Upload upload = UploadBytes("bytes");
  ThrowingStore store;
  ObjectStore* const good = std::exchange(server_->services().objects, &store);
  std::string bytes;
  EXPECT_TRUE(Fails(Read(upload.object(), 0, &bytes), grpc::INTERNAL, "HANDLER_FAILED"));
  server_->services().objects = good;
  EXPECT_TRUE(Read(upload.object(), 0, &bytes).ok());
}

TEST_F(TransferTest, AnObjectThatLostItsEndIsTold) {
  const v1::Upload upload = UploadBytes("0123456789");
  const std::string uid = upload.object().substr(upload.object().rfind('/') + 1);
  std::filesystem::resize_file(directory_.path() / "data/objects/projects/default/objects" / uid, 4);
  std::string bytes;
  const grpc::Status lost = Read(upload.object(), 0, &bytes);
  EXPECT_TRUE(Fails(lost, grpc::DATA_LOSS, "OBJECT_TRUNCATED"));
  EXPECT_THAT(lost.error_message(), ::testing::StartsWith(upload.object() + " has 10 bytes, and the object store has none from byte 4 on"));
  EXPECT_EQ(bytes, "0123");
  EXPECT_TRUE(Fails(Read(upload.object(), 6, &bytes), grpc::DATA_LOSS, "OBJECT_TRUNCATED"));
}

TEST_F(TransferTest, AReaderThatLeavesEndsItsDownload) {
  const std::string bytes(3'000'000, 'x');
  v1::Upload upload = Create(bytes);
  for (size_t at = 0; at < bytes.size(); at += 1'000'000) {
    ASSERT_TRUE(Write(upload.name(), static_cast<int64_t>(at), bytes.substr(at, 1'000'000), &upload).ok());
  }
  ASSERT_TRUE(Finish(upload.name(), &upload).ok());
  const std::string method = "sbora.v1.TransferService/Download";
  const int before = EndedCalls(method, "CANCELLED");
  grpc::ClientContext context;
  Prepare(context);
  v1::DownloadRequest request;
  request.set_object(upload.object());
  const auto reader = transfers_->Download(&context, request);
  v1::DownloadResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  WaitForEndedCall(method, "CANCELLED", before);
}

TEST_F(PresignedTest, ACallerThatLeavesGivesUpItsTurnToFinish) {
  auto memory = std::make_unique<MemoryObjectStore>();
  memory->GivePresignedUrls();
  MemoryObjectStore& objects = *memory;
  std::latch copied(1), go_on(1);
  CountingObjectStore slow(std::move(memory), [&](const StoreCall& call) {
    if (call.operation != StoreOperation::kCopy) return;
    copied.count_down();
    go_on.wait();
  });
  ObjectStore* const usual = std::exchange(server_->services().objects, &slow);
  const v1::Upload created = Create("good bytes");
  EXPECT_TRUE(objects.Put(KeyOf(created), "good bytes", PutMode::kOverwrite).ok());
  grpc::Status first;
  {
    std::jthread caller([&] {
      v1::Upload finished;
      first = Finish(created.name(), &finished);
    });
    copied.wait();
    const std::string method = "sbora.v1.TransferService/FinishUpload";
    v1::FinishUploadRequest request;
    request.set_name(created.name());
    // A call may end before the server has taken it up: then it is nobody's turn that is given up.
    for (int calls = 0; calls < 100 && EndedCalls(method, "CANCELLED") == 0; ++calls) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
      v1::Upload finished;
      EXPECT_EQ(transfers_->FinishUpload(&context, request, &finished).error_code(), grpc::DEADLINE_EXCEEDED);
    }
    EXPECT_GT(EndedCalls(method, "CANCELLED"), 0);
    EXPECT_EQ(EndedCalls(method, "OK"), 0) << "the first one is at it still";
    go_on.count_down();
  }
  EXPECT_TRUE(first.ok()) << FromGrpc(first);
  server_->services().objects = usual;
}

TEST_F(TransferTest, AnotherProjectsThingsDoNotExist) {
  const v1::Upload upload = UploadBytes("secret");
  v1::GetUploadRequest get;
  get.set_name("projects/other/uploads/" + upload.name().substr(upload.name().rfind('/') + 1));
  v1::Upload answer;
  EXPECT_TRUE(Fails(Call(*transfers_, &Stub::GetUpload, get, &answer), grpc::NOT_FOUND, "UPLOAD_NOT_FOUND"));
  std::string nothing;
  EXPECT_TRUE(Fails(Read("projects/other/objects/" + upload.object().substr(upload.object().rfind('/') + 1), 0, &nothing), grpc::NOT_FOUND,
                    "OBJECT_NOT_FOUND"));
}

}  // namespace
}  // namespace sbora::server
