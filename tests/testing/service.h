/// The whole service as real programs on loopback, for tests that submit, kill and look. Renewals and back-off are quick;
/// the times after which a silent program counts as lost are the service's own: no test waits for them, and a machine that
/// stands still for seconds must not look like a dead one. Everything lives in one temporary folder and dies with the object.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "client/sbora_client.h"
#include "common/file.h"
#include "common/status.h"
#include "tests/testing/program.h"

namespace sbora::testing {

class Service {
 public:
  /// Programs are looked for in SBORA_BINARY_DIR/bin.
  static StatusOr<std::unique_ptr<Service>> Create();
  ~Service();

  /// Further flags of the server, from its next start on.
  void set_server_arguments(std::vector<std::string> arguments) { server_arguments_ = std::move(arguments); }

  /// Further flags of the worker, the same.
  void set_worker_arguments(std::vector<std::string> arguments) { worker_arguments_ = std::move(arguments); }

  /// The first start takes free ports; later ones take the same again.
  Status StartServer();
  Status StartWorker() { return StartWorkerIn("worker", worker_); }
  /// A second one, of the same flags, for jobs over two workers.
  Status StartSecondWorker() { return StartWorkerIn("second", second_worker_); }
  Status StartBoth();

  Program& server() { return server_; }
  Program& worker() { return worker_; }
  Program& second_worker() { return second_worker_; }
  client::Client& client() { return *client_; }
  const std::filesystem::path& directory() const { return directory_.path(); }
  const std::string& address() const { return address_; }
  const std::string& http_address() const { return http_address_; }

  /// Pids of the trainers of this service's workers.
  std::vector<pid_t> Trainers() const { return TrainersIn(""); }
  std::vector<pid_t> TrainersOfSecondWorker() const { return TrainersIn("second"); }
  /// The ends of all logs, for failure messages.
  std::string Logs() const;

  // What a user does, through the client library. Names are plain ids.
  Status ImportModel(const std::filesystem::path& folder, const std::string& id);
  Status UploadDataset(const std::filesystem::path& file, const std::string& id);
  StatusOr<v1::FineTuningJob> Submit(const std::string& id, const v1::FineTuningSpec& spec);
  StatusOr<v1::FineTuningJob> Get(const std::string& id);
  /// Until the job is in `state`; an ended job in another state is an error that tells why.
  StatusOr<v1::FineTuningJob> WaitForState(const std::string& id, v1::FineTuningJob::State state,
                                           std::chrono::seconds limit);
  /// Until the job has trained `step` steps.
  Status WaitForStep(const std::string& id, int64_t step, std::chrono::seconds limit);
  /// SHA-256 of the adapter's tensors.
  StatusOr<std::string> AdapterHash(const std::string& id);

 private:
  explicit Service(TempDirectory directory) : directory_(std::move(directory)) {}
  /// With its data in this folder of `directory()`, its ready file and its log beside that.
  Status StartWorkerIn(const std::string& folder, Program& worker);
  std::vector<pid_t> TrainersIn(const std::string& folder) const;

  TempDirectory directory_;
  std::vector<std::string> server_arguments_;
  std::vector<std::string> worker_arguments_;
  std::string address_;
  std::string http_address_;
  std::unique_ptr<client::Client> client_;
  Program server_;
  Program worker_;
  Program second_worker_;
};

}  // namespace sbora::testing
