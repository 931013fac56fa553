/// The C++ client library: one object, typed calls of `sbora.v1`, and what every program would otherwise write again:
/// request ids and safe retries, pages, watches that survive a broken stream, waiting for operations, transfers that
/// check every hash.
///
///     SBORA_ASSIGN_OR_RETURN(auto client, Client::Connect({.server = "127.0.0.1:7400"}));
///     v1::CreateFineTuningJobRequest request;
///     request.mutable_fine_tuning_job()->mutable_spec()->set_model("smollm2");
///     SBORA_ASSIGN_OR_RETURN(v1::FineTuningJob job, client->Submit(std::move(request)));
///     SBORA_ASSIGN_OR_RETURN(job, client->Watch(job.name(), {}, {}));
///     SBORA_RETURN_IF_ERROR(client->Pull(adapter.files(), adapter.manifest_sha256(), "adapter", {}));
///
/// Calls block. Thread-safe: any number of threads may use one Client. Errors are the server's (common/grpc/
/// status_convert.h); a call that found no server is UNAVAILABLE after `attempts` tries, one that took longer than
/// `call_timeout` DEADLINE_EXCEEDED.
#pragma once

#include <google/longrunning/operations.grpc.pb.h>
#include <google/protobuf/repeated_ptr_field.h>
#include <grpcpp/channel.h>

#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/grpc/backoff.h"
#include "common/grpc/channel.h"
#include "common/status.h"
#include "sbora/v1/adapter.grpc.pb.h"
#include "sbora/v1/admin.grpc.pb.h"
#include "sbora/v1/dataset.grpc.pb.h"
#include "sbora/v1/evaluation.grpc.pb.h"
#include "sbora/v1/job.grpc.pb.h"
#include "sbora/v1/model.grpc.pb.h"
#include "sbora/v1/transfer.grpc.pb.h"

namespace sbora::client {

struct ClientOptions {
  std::string server = "127.0.0.1:7400";  ///< host:port
  std::string project = "default";
  ChannelOptions channel;
  /// Deadline of one unary call. Streams have none.
  std::chrono::milliseconds call_timeout = kDefaultCallDeadline;
  /// Times `call_timeout` for calls during which the server reads a whole file.
  int long_call_factor = 10;
  /// Between tries of a call that may be repeated.
  BackoffOptions retry{
      .initial = std::chrono::milliseconds(200), .maximum = std::chrono::milliseconds(2000), .max_attempts = 3};
  /// Between tries of a transfer that does not move; granted anew whenever bytes have moved.
  BackoffOptions transfer_retry = {};
  /// How long a watch or a wait that has had an answer goes on without another before it gives up.
  std::chrono::milliseconds reconnect_for{300'000};
  /// Longest time between two looks at an operation.
  std::chrono::milliseconds poll_interval{1000};
};

/// Of a list: at most `limit` items, newest or first ones; 0 for all of them.
struct ListOptions {
  int64_t limit = 0;
};

struct WatchOptions {
  /// Events after this sequence; 0 from the start.
  int64_t after_sequence = 0;
  std::stop_token stop;
  /// Told of each break before the stream is taken up again.
  std::function<void(const Status& why, int64_t sequence)> on_break;
};
/// Called for each message in order, none twice; a failed status ends the watch with it.
using WatchSink = std::function<Status(const v1::WatchFineTuningJobResponse&)>;

/// Bytes so far and in all, over all files of the transfer; called from the calling thread.
using TransferProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

/// A local file and the name it gets inside the resource.
struct LocalFile {
  std::filesystem::path path;
  std::string name;
};

bool IsTerminal(v1::FineTuningJob::State state);
bool IsTerminal(v1::EvaluationJob::State state);

/// What Pull would refuse of a target folder, to ask before long work: FailedPrecondition DIRECTORY_NOT_EMPTY without
/// `force`, NOT_A_DIRECTORY.
Status CheckPullTarget(const std::filesystem::path& directory, bool force);

class Client {
 public:
  /// Does not wait for the server: the first call does. Errors: those of CreateChannel.
  static StatusOr<std::unique_ptr<Client>> Connect(ClientOptions options);
  /// Over a channel of the caller's, for example an in-process server's.
  Client(std::shared_ptr<grpc::Channel> channel, ClientOptions options);

  const ClientOptions& options() const { return options_; }
  /// "projects/{project}".
  std::string Parent() const;
  /// "projects/{project}/{collection}/{id}"; a name that holds a slash already stands as it is.
  std::string ResourceName(std::string_view collection, std::string_view id) const;

  // Requests of Create-like calls get the parent and a random request_id where theirs are empty, and are therefore
  // repeated after UNAVAILABLE; so are Get and List. Delete and the other verbs are sent once.
  StatusOr<google::longrunning::Operation> ImportModel(v1::ImportModelRequest request);
  StatusOr<v1::Model> GetModel(const std::string& name);
  StatusOr<v1::ListModelsResponse> ListModels(const ListOptions& options);
  Status DeleteModel(const std::string& name);

  StatusOr<v1::Dataset> CreateDataset(v1::CreateDatasetRequest request);
  StatusOr<v1::Dataset> GetDataset(const std::string& name);
  StatusOr<v1::ListDatasetsResponse> ListDatasets(const ListOptions& options);
  Status DeleteDataset(const std::string& name);

  StatusOr<v1::FineTuningJob> Submit(v1::CreateFineTuningJobRequest request);
  StatusOr<v1::FineTuningJob> GetJob(const std::string& name);
  StatusOr<v1::ListFineTuningJobsResponse> ListJobs(const ListOptions& options, const std::string& filter);
  StatusOr<v1::ListFineTuningEventsResponse> ListEvents(const std::string& job, const ListOptions& options);
  StatusOr<v1::ListFineTuningMetricsResponse> ListMetrics(const std::string& job, const ListOptions& options);
  StatusOr<v1::ListFineTuningCheckpointsResponse> ListCheckpoints(const std::string& job, const ListOptions& options);
  StatusOr<v1::FineTuningJob> CancelJob(const std::string& name);
  StatusOr<v1::FineTuningJob> PauseJob(const std::string& name);
  StatusOr<v1::FineTuningJob> ResumeJob(const std::string& name);
  Status DeleteJob(const std::string& name);
  StatusOr<v1::EstimateFineTuningJobResponse> Estimate(v1::EstimateFineTuningJobRequest request);

  /// Streams to `sink` until the job has ended, and answers with the ended job. A broken stream is taken up again after
  /// the last sequence seen; messages the server repeats are left out. Errors: Cancelled STOPPED when `options.stop`
  /// was requested, the sink's, and the server's.
  StatusOr<v1::FineTuningJob> Watch(const std::string& name, const WatchOptions& options, const WatchSink& sink);

  StatusOr<v1::Adapter> GetAdapter(const std::string& name);
  StatusOr<v1::ListAdaptersResponse> ListAdapters(const ListOptions& options);
  Status DeleteAdapter(const std::string& name);
  StatusOr<google::longrunning::Operation> ExportAdapter(v1::ExportAdapterRequest request);
  StatusOr<google::longrunning::Operation> MergeAdapters(v1::MergeAdaptersRequest request);
  StatusOr<v1::CompareAdaptersResponse> CompareAdapters(v1::CompareAdaptersRequest request);

  StatusOr<v1::EvaluationJob> CreateEvaluation(v1::CreateEvaluationJobRequest request);
  StatusOr<v1::EvaluationJob> GetEvaluation(const std::string& name);
  /// Without their examples.
  StatusOr<v1::ListEvaluationJobsResponse> ListEvaluations(const ListOptions& options);
  StatusOr<v1::EvaluationJob> CancelEvaluation(const std::string& name);
  Status DeleteEvaluation(const std::string& name);
  StatusOr<v1::GenerateResponse> Generate(v1::GenerateRequest request);

  /// Polls until the job has ended; `on_change` sees every answer. Errors: Cancelled STOPPED, the server's.
  StatusOr<v1::EvaluationJob> WaitEvaluation(const std::string& name, const std::stop_token& stop,
                                             const std::function<void(const v1::EvaluationJob&)>& on_change);
  /// Polls until the operation is done, whether well or not: look at `has_error()`. Errors as WaitEvaluation's.
  StatusOr<google::longrunning::Operation> WaitOperation(
      google::longrunning::Operation operation, const std::stop_token& stop,
      const std::function<void(const google::longrunning::Operation&)>& on_change);

  StatusOr<v1::ServerInfo> ServerInfo();
  StatusOr<v1::ListWorkersResponse> ListWorkers(const ListOptions& options);
  StatusOr<v1::Worker> DrainWorker(const std::string& name);

  /// Hashes and uploads the files one after the other; the answers are finished uploads in the same order. Broken
  /// streams go on at the byte the server has. Errors: Cancelled STOPPED, DataLoss HASH_MISMATCH, DataLoss FILE_SHRANK,
  /// Unavailable UPLOAD_STALLED when the server takes no more, reads, the server's.
  StatusOr<std::vector<v1::Upload>> Upload(const std::vector<LocalFile>& files, const std::stop_token& stop,
                                           const TransferProgress& progress);

  struct PullOptions {
    /// Replace a folder that is not empty.
    bool force = false;
    std::stop_token stop;
    TransferProgress progress;
  };
  /// Downloads `files` into `directory`, which appears whole or not at all: it is filled under a temporary name beside
  /// it, every SHA-256 (and the manifest's, when given) is checked, then it is renamed. Errors: FailedPrecondition
  /// DIRECTORY_NOT_EMPTY without `force`, DataLoss HASH_MISMATCH, DataLoss BAD_FILE_NAME for a name that is no plain
  /// file name, DataLoss BAD_DIGEST for a hash that is none, NotFound NO_FILES, Cancelled STOPPED, the server's.
  Status Pull(const google::protobuf::RepeatedPtrField<v1::File>& files, const std::string& manifest_sha256,
              const std::filesystem::path& directory, const PullOptions& options);

 private:
  /// kSafeAndLong: the server may read a whole file before it answers.
  enum class Repeat { kSafe, kSafeAndLong, kOnce };

  template <typename Stub, typename Request, typename Response>
  StatusOr<Response> Call(const std::unique_ptr<Stub>& stub,
                          grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                          const Request& request, Repeat repeat);
  template <typename Stub, typename Request, typename Response>
  StatusOr<Response> ListPages(const std::unique_ptr<Stub>& stub,
                               grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                               Request request, const ListOptions& options);
  template <typename T>
  StatusOr<T> Poll(T value, const std::function<StatusOr<T>()>& get, const std::function<bool(const T&)>& done,
                   const std::stop_token& stop, const std::function<void(const T&)>& on_change);

  struct WatchState;
  Status ReadStream(const std::string& name, const WatchOptions& options, const WatchSink& sink, WatchState& state);

  StatusOr<v1::Upload> UploadOne(const LocalFile& file, const std::stop_token& stop,
                                 const std::function<void(int64_t)>& progress);

  const ClientOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;  // shared with the stubs and transfers made over it
  const std::unique_ptr<v1::ModelService::Stub> models_;
  const std::unique_ptr<v1::DatasetService::Stub> datasets_;
  const std::unique_ptr<v1::FineTuningService::Stub> jobs_;
  const std::unique_ptr<v1::AdapterService::Stub> adapters_;
  const std::unique_ptr<v1::EvaluationService::Stub> evaluations_;
  const std::unique_ptr<v1::AdminService::Stub> admin_;
  const std::unique_ptr<v1::TransferService::Stub> transfers_;
  const std::unique_ptr<google::longrunning::Operations::Stub> operations_;
};

}  // namespace sbora::client
