#include "server/sbora_server.h"

#include <fmt/format.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <atomic>
#include <system_error>

#include "common/file.h"
#include "common/grpc/channel.h"
#include "common/logging.h"
#include "common/mutex.h"
#include "common/status_macros.h"
#include "common/storage/counting_object_store.h"
#include "server/config.h"
#include "server/http/http_server.h"
#include "server/services/adapter_service.h"
#include "server/services/admin_service.h"
#include "server/services/dataset_service.h"
#include "server/services/evaluation_service.h"
#include "server/services/fine_tuning_service.h"
#include "server/services/measured_store.h"
#include "server/services/model_service.h"
#include "server/services/operations_service.h"
#include "server/services/sweeper.h"
#include "server/services/transfer_service.h"
#include "server/services/validator.h"
#include "server/services/web_backend.h"
#include "server/services/worker_service.h"
#include "server/store/sqlite_store.h"


namespace sbora::server {
namespace {

constexpr int kMaxMessageBytes = 4 * 1024 * 1024;
constexpr int kPoolThreads = 8;
constexpr int kMaxGrpcThreads = 256;
constexpr std::chrono::minutes kSweepEvery{10};
constexpr int64_t kMaxPemBytes = 1 << 20;

StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const config::v1::ServerConfig& config) {
  if (config.tls_certificate().empty()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  SBORA_ASSIGN_OR_RETURN(const std::string key, ReadFile(config.tls_key(), kMaxPemBytes));
  SBORA_ASSIGN_OR_RETURN(const std::string certificate, ReadFile(config.tls_certificate(), kMaxPemBytes));
  options.pem_key_cert_pairs.push_back({key, certificate});
  return grpc::SslServerCredentials(options);
}

Status MakeDirectory(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  return error ? FromErrno(error.value(), directory.string()) : OkStatus();
}

void SetLimits(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 100);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  grpc::ResourceQuota quota("sbora-server");
  quota.SetMaxThreads(kMaxGrpcThreads);
  builder.SetResourceQuota(quota);
}

std::string Join(const std::string& host, int port) {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

}  // namespace

/// Members in the order of their making; destruction runs backwards.
struct SboraServer::Impl {
  config::v1::ServerConfig config;
  std::unique_ptr<ServerMetrics> metrics;
  std::unique_ptr<Store> store;
  std::unique_ptr<ObjectStore> objects;
  std::unique_ptr<Authenticator> authenticator;
  std::unique_ptr<UploadFiles> uploads;
  Mutex health_mutex;
  grpc::HealthCheckServiceInterface* health SBORA_GUARDED_BY(health_mutex) = nullptr;  // while the gRPC server is there
  std::atomic<bool> stopping{false};
  ServiceContext context;
  std::string bound_address;  // written before Start returns, constant afterwards
  std::string bound_http_address;
  std::unique_ptr<Coordinator> coordinator;
  std::unique_ptr<WorkerPool> pool;
  std::unique_ptr<WorkerPool> transfer_pool;
  std::atomic<int> waiting_calls{0};
  std::unique_ptr<DatasetValidator> validator;
  std::unique_ptr<Sweeper> sweeper;

  std::unique_ptr<ModelServiceImpl> models;
  std::unique_ptr<DatasetServiceImpl> datasets;
  std::unique_ptr<FineTuningServiceImpl> jobs;
  std::unique_ptr<AdapterServiceImpl> adapters;
  std::unique_ptr<EvaluationServiceImpl> evaluations;
  std::unique_ptr<TransferServiceImpl> transfers;
  std::unique_ptr<AdminServiceImpl> admin;
  std::unique_ptr<OperationsServiceImpl> operations;
  std::unique_ptr<WorkerServiceImpl> workers;
  std::unique_ptr<grpc::Server> grpc_server;
  std::unique_ptr<WebBackend> web;
  std::unique_ptr<HttpServer> http;

  Status OpenStores();
  Status StartCoordinator();
  void MakeServices();
  Status StartGrpc();
  Status StartHttp();
  void SetServing(bool serving);
};

void SboraServer::Impl::SetServing(bool serving) {
  MutexLock lock(health_mutex);
  if (health != nullptr) health->SetServingStatus(serving && !stopping);
}

Status SboraServer::Impl::OpenStores() {
  const std::filesystem::path data_dir = config.data_dir();
  SBORA_RETURN_IF_ERROR(MakeDirectory(data_dir));
  SBORA_ASSIGN_OR_RETURN(std::unique_ptr<Store> plain, OpenSqliteStore({.path = data_dir / "sbora.sqlite"}));
  store = std::make_unique<MeasuredStore>(std::move(plain), *metrics, SystemClock());
  // The store is locked, so nobody else lives in this folder.
  // Left over from a server that was killed; nothing in it is anybody's.
  std::error_code ignored;
  std::filesystem::remove_all(data_dir / "tmp", ignored);
  SBORA_RETURN_IF_ERROR(MakeDirectory(data_dir / "tmp"));
  SBORA_ASSIGN_OR_RETURN(const ObjectStoreOptions options, ObjectStoreOptionsOf(config));
  SBORA_ASSIGN_OR_RETURN(std::unique_ptr<ObjectStore> plain_objects, OpenObjectStore(options));
  objects = std::make_unique<CountingObjectStore>(std::move(plain_objects), [this](const StoreCall& call) {
    metrics->ObserveObjectStore(call.operation, call.ok, call.bytes, call.duration);
  });
  SBORA_ASSIGN_OR_RETURN(authenticator, Authenticator::Create(config.token_file(), SystemClock()));
  SBORA_ASSIGN_OR_RETURN(uploads, UploadFiles::Create(data_dir / "uploads"));
  context.temp_directory = data_dir / "tmp";
  return OkStatus();
}

Status SboraServer::Impl::StartCoordinator() {
  CoordinatorOptions options;
  options.store = store.get();
  options.config = SchedulerConfigOf(config);
  options.on_serving = [this](bool serving) { SetServing(serving); };
  options.on_cycle = [this](Duration duration) { metrics->ObserveSchedulerCycle(duration); };
  SBORA_ASSIGN_OR_RETURN(coordinator, Coordinator::Start(std::move(options)));
  return OkStatus();
}

void SboraServer::Impl::MakeServices() {
  pool = std::make_unique<WorkerPool>("services", kPoolThreads);
  transfer_pool = std::make_unique<WorkerPool>("transfers", kPoolThreads);
  context.coordinator = coordinator.get();
  context.objects = objects.get();
  context.clock = &SystemClock();
  context.metrics = metrics.get();
  context.authenticator = authenticator.get();
  context.pool = pool.get();
  context.transfer_pool = transfer_pool.get();
  context.waiting_calls = &waiting_calls;
  context.uploads = uploads.get();
  context.timing = SchedulerConfigOf(config).timing;
  context.version = SBORA_VERSION;
  context.object_store_kind = config.object_store().starts_with("s3://") ? "s3" : "file";
  context.start_time = SystemClock().WallNow();
  validator = std::make_unique<DatasetValidator>(context);
  context.validator = validator.get();
  sweeper = std::make_unique<Sweeper>(context, kSweepEvery);
  models = std::make_unique<ModelServiceImpl>(context);
  datasets = std::make_unique<DatasetServiceImpl>(context);
  jobs = std::make_unique<FineTuningServiceImpl>(context);
  adapters = std::make_unique<AdapterServiceImpl>(context);
  evaluations = std::make_unique<EvaluationServiceImpl>(context);
  transfers = std::make_unique<TransferServiceImpl>(context);
  admin = std::make_unique<AdminServiceImpl>(context);
  operations = std::make_unique<OperationsServiceImpl>(context);
  workers = std::make_unique<WorkerServiceImpl>(context);
}

Status SboraServer::Impl::StartGrpc() {
  SBORA_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(config.listen(), "--listen"));
  SBORA_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ServerCredentials> credentials, Credentials(config));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(config.listen(), credentials, &port);
  SetLimits(builder);
  for (grpc::Service* service : {static_cast<grpc::Service*>(models.get()), static_cast<grpc::Service*>(datasets.get()),
                                 static_cast<grpc::Service*>(jobs.get()), static_cast<grpc::Service*>(adapters.get()),
                                 static_cast<grpc::Service*>(evaluations.get()), static_cast<grpc::Service*>(transfers.get()),
                                 static_cast<grpc::Service*>(admin.get()), static_cast<grpc::Service*>(operations.get()),
                                 static_cast<grpc::Service*>(workers.get())}) {
    builder.RegisterService(service);
  }
  context.address.Set(config.listen());  // the best answer to a call that is quicker than the line behind the start
  grpc_server = builder.BuildAndStart();
  if (grpc_server == nullptr || port == 0) {
    return Unavailable("GRPC_LISTEN", fmt::format("cannot listen on {}; is the port in use, or the certificate bad? --listen {} takes "
                                                  "any free port",
                                                  config.listen(), Join(address.host, 0)));
  }
  bound_address = Join(address.host, port);
  context.address.Set(bound_address);
  {
    MutexLock lock(health_mutex);
    health = grpc_server->GetHealthCheckService();
  }
  SetServing(false);
  return OkStatus();
}

Status SboraServer::Impl::StartHttp() {
  SBORA_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(config.http_listen(), "--http-listen"));
  web = std::make_unique<WebBackend>(context);
  HttpServerOptions options;
  options.host = address.host;
  options.port = address.port;
  options.backend = web.get();
  if (!IsLoopbackAddress(config.http_listen())) {
    options.tls_certificate = config.tls_certificate();
    options.tls_key = config.tls_key();
  }
  SBORA_ASSIGN_OR_RETURN(http, HttpServer::Start(options));
  bound_http_address = Join(address.host, http->port());
  context.http_address.Set(bound_http_address);
  return OkStatus();
}

SboraServer::SboraServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

StatusOr<std::unique_ptr<SboraServer>> SboraServer::Start(const config::v1::ServerConfig& config,
                                                           const std::filesystem::path& check_program) {
  SBORA_RETURN_IF_ERROR(CheckConfig(config));
  auto impl = std::make_unique<Impl>();
  impl->config = config;
  impl->context.check_program = check_program;
  impl->metrics = std::make_unique<ServerMetrics>(SBORA_VERSION, SBORA_REVISION);
  std::unique_ptr<SboraServer> server(new SboraServer(std::move(impl)));
  Impl& parts = *server->impl_;
  SBORA_RETURN_IF_ERROR(parts.OpenStores());
  SBORA_RETURN_IF_ERROR(parts.StartCoordinator());
  parts.MakeServices();
  SBORA_RETURN_IF_ERROR(parts.StartHttp());
  SBORA_RETURN_IF_ERROR(parts.StartGrpc());
  SBORA_RETURN_IF_ERROR(parts.validator->AddStored());
  parts.SetServing(parts.coordinator->serving());
  return server;
}

SboraServer::~SboraServer() {
  Stop();
  // Everything that calls the coordinator goes before it; it goes before what it calls.
  impl_->http.reset();
  {
    MutexLock lock(impl_->health_mutex);
    impl_->health = nullptr;  // the store thread may still have something to say
  }
  impl_->grpc_server.reset();
  impl_->validator.reset();
  impl_->sweeper.reset();
  impl_->transfer_pool.reset();
  impl_->pool.reset();
  impl_->coordinator.reset();
}

const std::string& SboraServer::address() const { return impl_->bound_address; }
const std::string& SboraServer::http_address() const { return impl_->bound_http_address; }
std::shared_ptr<grpc::Channel> SboraServer::InProcessChannel() { return impl_->grpc_server->InProcessChannel({}); }
ServiceContext& SboraServer::services() { return impl_->context; }

void SboraServer::Stop(std::chrono::milliseconds grace) {
  if (impl_->stopping.exchange(true)) return;
  impl_->SetServing(false);
  if (impl_->grpc_server != nullptr) impl_->grpc_server->Shutdown(std::chrono::system_clock::now() + grace);
}

}  // namespace sbora::server
