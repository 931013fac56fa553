/// `sbora-server --with-worker`: a sbora-worker beside the server, as a child that goes when the server goes.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"

namespace sbora::server {

/// Used by one thread. The destructor stops the child.
class WorkerProcess {
 public:
  /// Starts `program` with `arguments` in its own process group; it gets SIGTERM when this process dies.
  /// Errors: NOT_FOUND WORKER_PROGRAM_MISSING; of fork.
  static StatusOr<std::unique_ptr<WorkerProcess>> Start(const std::filesystem::path& program, std::vector<std::string> arguments);
  ~WorkerProcess();

  bool Running();
  /// SIGTERM, then SIGKILL to the group after `grace`.
  void Stop(std::chrono::milliseconds grace);

 private:
  explicit WorkerProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

/// The folder of the running program.
std::filesystem::path ProgramDirectory();

}  // namespace sbora::server
