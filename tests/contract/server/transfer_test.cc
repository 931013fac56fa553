// TransferService.
#include "common/sha256.h"
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
