// What a stranger meets first: reflection, health, and who may call what, for every RPC that the descriptors have.
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>

#include <set>

#include "common/sha256.h"
#include "server/services/auth.h"
#include "tests/contract/server/contract_fixture.h"

namespace sbora::server {
namespace {

using ::testing::HasSubstr;

constexpr const char* kServices[] = {"sbora.v1.ModelService",      "sbora.v1.DatasetService",  "sbora.v1.FineTuningService",
                                     "sbora.v1.AdapterService",    "sbora.v1.EvaluationService", "sbora.v1.TransferService",
                                     "sbora.v1.AdminService",      "google.longrunning.Operations", "sbora.worker.v1.WorkerService"};

struct RawAnswer {
  grpc::Status status;
  std::string bytes;  ///< of the first message
};

/// Any RPC by its path, with one request message as serialised bytes, as a program without our stubs makes it.
class RawCaller {
 public:
  explicit RawCaller(const std::shared_ptr<grpc::Channel>& channel) : stub_(channel) {}

  RawAnswer Call(const std::string& path, const std::string& request, const std::string& token = "") {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
    grpc::CompletionQueue queue;
    const auto call = stub_.PrepareCall(&context, path, &queue);
    call->StartCall(this);
    RawAnswer answer;
    grpc::ByteBuffer message;
    if (Done(queue)) {
      const grpc::Slice slice(request);
      call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), this);
      Done(queue);
      call->Read(&message, this);
      if (Done(queue)) answer.bytes = Text(message);
      // A server stream may have more to say than is asked for here.
      while (message.Valid()) {
        message.Clear();
        call->Read(&message, this);
        if (!Done(queue)) break;
      }
    }
    call->Finish(&answer.status, this);
    Done(queue);
    return answer;
  }

 private:
  static bool Done(grpc::CompletionQueue& queue) {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  }
  static std::string Text(const grpc::ByteBuffer& buffer) {
    std::vector<grpc::Slice> slices;
    std::string text;
    if (!buffer.Dump(&slices).ok()) return text;
    for (const grpc::Slice& slice : slices) text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    return text;
  }

  grpc::GenericStub stub_;
};

class SurfaceTest : public ContractTest {};

TEST_F(SurfaceTest, HealthSaysServing) {
  // grpc.health.v1.HealthCheckResponse{status: SERVING} is field 1 with value 1.
  const RawAnswer answer = RawCaller(channel_).Call("/grpc.health.v1.Health/Check", "");
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.bytes, std::string("\x08\x01"));
  // HealthCheckRequest{service: "nobody"}.
  EXPECT_EQ(RawCaller(channel_).Call("/grpc.health.v1.Health/Check", "\x0a\x06nobody").status.error_code(), grpc::NOT_FOUND);
}

TEST_F(SurfaceTest, ReflectionListsEveryServiceAndTheirFiles) {
  const std::string path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const RawAnswer listed = RawCaller(channel_).Call(path, std::string("\x3a\x01*", 3));  // list_services: "*"
  EXPECT_TRUE(listed.status.ok()) << listed.status.error_message();
  for (const char* service : kServices) {
    EXPECT_THAT(listed.bytes, HasSubstr(service));
    // file_containing_symbol: the service; the answer holds its FileDescriptorProto.
    std::string request = "\x22";
    request += static_cast<char>(std::string(service).size());
    request += service;
    const std::string name(std::string(service).substr(std::string(service).rfind('.') + 1));
    EXPECT_THAT(RawCaller(channel_).Call(path, request).bytes, HasSubstr(name)) << service;
  }
}

/// The rule in words, apart from the table under test: who reads, who writes, who works, who administers.
std::set<std::string> RolesByRule(const google::protobuf::MethodDescriptor& method) {
  const std::string service = method.service()->name();
  const std::string& name = method.name();
  if (service == "WorkerService") return {"worker", "admin"};
  if (name == "DrainWorker") return {"admin"};
  bool reads = false;
  for (const char* verb : {"Get", "List", "Watch", "Estimate", "Compare", "Wait", "Download"}) reads = reads || name.starts_with(verb);
  if (name == "GetUpload") reads = false;  // part of writing: where a broken upload goes on
  std::set<std::string> roles = {"submitter", "admin"};
  if (reads) roles.insert("viewer");
  if (service == "TransferService" || name == "GetServerInfo") roles.insert("worker");
  return roles;
}

class RolesTest : public ContractTest {
 protected:
  void Configure(config::v1::ServerConfig& config) override {
    const std::filesystem::path file = directory_.path() / "tokens";
    std::string lines;
    for (const char* role : kRoles) lines += std::string(role) + " " + Sha256Hex(role) + "\n";
    ASSERT_TRUE(WriteFileAtomic(file, lines).ok());
    config.set_token_file(file.string());
  }

  static constexpr const char* kRoles[] = {"admin", "submitter", "viewer", "worker"};
};

TEST_F(RolesTest, EveryRoleAtEveryRpc) {
  int checked = 0;
  for (const char* service_name : kServices) {
    const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service_name);
    ASSERT_NE(service, nullptr) << service_name;
    for (int i = 0; i < service->method_count(); ++i) {
      const auto& method = *service->method(i);
      const std::string path = "/" + service->full_name() + "/" + method.name();
      EXPECT_EQ(FromGrpc(RawCaller(channel_).Call(path, "").status).reason(), "TOKEN_MISSING") << path;
      const std::set<std::string> allowed = RolesByRule(method);
      for (const char* role : kRoles) {
        const Status status = FromGrpc(RawCaller(channel_).Call(path, "", role).status);
        if (allowed.contains(role)) {
          EXPECT_NE(status.code(), StatusCode::kPermissionDenied) << role << " at " << path;
          EXPECT_NE(status.code(), StatusCode::kUnauthenticated) << role << " at " << path;
        } else {
          EXPECT_EQ(status.reason(), "ROLE_NOT_ALLOWED") << role << " at " << path;
        }
        ++checked;
      }
    }
  }
  EXPECT_GT(checked, 4 * 44);
}

}  // namespace
}  // namespace sbora::server
