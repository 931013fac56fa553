// sbora-server. Exit codes: 0 stopped by a signal, 1 could not start or serve, 2 bad flags or settings.
#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/file.h"
#include "common/logging.h"
#include "server/config.h"
#include "server/sbora_server.h"
#include "server/services/isolated_check.h"
#include "server/worker_process.h"

namespace sbora::server {
namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;
constexpr std::chrono::seconds kGrpcGrace{5};
constexpr std::chrono::seconds kWorkerGrace{3};
constexpr timespec kLookAtChild = {1, 0};

int Fail(const Status& status) {
  const bool usage = status.code() == StatusCode::kInvalidArgument;
  LogError("sbora-server ends", {{"reason", status.reason()}, {"error", status.message()}});
  return usage ? kExitUsage : kExitFailed;
}

Status WriteReadyFile(const std::string& path, const SboraServer& server) {
  if (path.empty()) return OkStatus();
  const nlohmann::json ready = {{"address", server.address()}, {"httpAddress", server.http_address()}, {"pid", ::getpid()}};
  return WriteFileAtomic(path, ready.dump() + "\n");
}

/// A wildcard address is reached through loopback.
std::string AddressForChild(const std::string& address) {
  const size_t colon = address.rfind(':');
  const std::string host = address.substr(0, colon);
  return host == "0.0.0.0" || host == "[::]" ? "127.0.0.1" + address.substr(colon) : address;
}

StatusOr<std::unique_ptr<WorkerProcess>> StartWorker(const ServerOptions& options, const SboraServer& server) {
  const std::filesystem::path data_dir = std::filesystem::path(options.config.data_dir()) / "worker";
  return WorkerProcess::Start(ProgramDirectory() / "sbora-worker",
                              {"--server", AddressForChild(server.address()), "--data-dir", data_dir.string()});
}

/// Waits for SIGTERM or SIGINT; tells once when the child is gone.
void WaitForSignal(const sigset_t& signals, WorkerProcess* worker) {
  bool told = false;
  for (;;) {
    const int signal_number = ::sigtimedwait(&signals, nullptr, &kLookAtChild);
    if (signal_number > 0) {
      LogInfo("Stopping", {{"signal", signal_number}});
      return;
    }
    if (worker != nullptr && !told && !worker->Running()) {
      LogError("sbora-worker ended; jobs wait until another worker joins");
      told = true;
    }
  }
}

int Run(int argc, char** argv) {
  InitLogging("sbora-server");
  // Not for users: the server starts itself so to read data it does not trust.
  if (argc == 3 && std::string_view(argv[1]) == kCheckFlag) {
    const StatusOr<std::string> memory_max = ReadFile("/sys/fs/cgroup/memory.max", 64);
    return RunCheckChild(argv[2], CheckMemoryLimit(memory_max.ok() ? *memory_max : "max"));
  }
  // All threads inherit the mask; only WaitForSignal takes these signals.
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);

  std::optional<int> exit_code;
  const StatusOr<ServerOptions> options = ParseServerFlags(argc, argv, &exit_code);
  if (exit_code) return *exit_code;
  if (!options.ok()) return Fail(options.status());
  const StatusOr<std::unique_ptr<SboraServer>> started = SboraServer::Start(options->config, "/proc/self/exe");
  if (!started.ok()) return Fail(started.status());
  SboraServer& server = **started;
  std::unique_ptr<WorkerProcess> worker;
  if (options->with_worker) {
    StatusOr<std::unique_ptr<WorkerProcess>> child = StartWorker(*options, server);
    if (!child.ok()) return Fail(child.status());
    worker = std::move(child).value();
  }
  const Status ready = WriteReadyFile(options->config.ready_file(), server);
  if (!ready.ok()) return Fail(ready);
  LogInfo("Serving", {{"address", server.address()}, {"http_address", server.http_address()}, {"data_dir", options->config.data_dir()}});
  WaitForSignal(signals, worker.get());
  // The worker reports its attempts as preempted while the server still listens.
  if (worker != nullptr) worker->Stop(kWorkerGrace);
  server.Stop(kGrpcGrace);
  LogInfo("Stopped");
  return 0;
}

}  // namespace
}  // namespace sbora::server

int main(int argc, char** argv) {
  try {
    return sbora::server::Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sbora-server: %s\n", error.what());
    return 1;
  }
}
