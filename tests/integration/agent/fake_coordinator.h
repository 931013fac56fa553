/// The coordinator's side of the worker protocol and of transfers, in memory, with faults on request.
#pragma once

#include <grpcpp/server.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/mutex.h"
#include "sbora/v1/transfer.grpc.pb.h"
#include "sbora/worker/v1/worker.grpc.pb.h"

namespace sbora::agent {

class FakeCoordinator : public worker::v1::WorkerService::Service, public v1::TransferService::Service {
 public:
  FakeCoordinator();
  ~FakeCoordinator() override;
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  /// What the tests see of one lease.
  struct LeaseView {
    std::vector<std::string> states;  // each change: preparing, running, stopping, ended, committing
    std::optional<worker::v1::Ended> ended;
    std::map<int64_t, worker::v1::ReportItem> items;  // by sequence
    bool committed = false;
    std::vector<v1::File> files;
    int commits = 0;
    bool duplicate_start_offered = false;
    bool ready = false;      // of a part of a gang over several workers
    std::string rendezvous;  // of the one with rank 0
  };

  std::string AddObject(const std::string& bytes);
  v1::File FileOf(const std::string& path, const std::string& bytes);
  void CorruptObject(const std::string& object);
  std::string ObjectBytes(const std::string& object);
  /// A train lease whose model is the stub's script; returns its uid.
  std::string AddTrainLease(const std::string& script, int ranks = 1, const v1::File* checkpoint = nullptr,
                            const v1::File* before = nullptr);
  /// A gang "over several workers", of parts of one rank each that are all given to the one worker there is.
  std::vector<std::string> AddGang(const std::string& script, int parts);
  void Stop(const std::string& uid, worker::v1::StopLease::Reason reason);
  void Fence(const std::string& uid);
  void RepeatStart(const std::string& uid);
  void set_silent(bool silent);
  /// The next WriteUpload and Download break once after this many bytes.
  void BreakNextTransfer(int64_t after_bytes);
  /// What a broken server does: WriteUpload ends well and has taken nothing; FinishUpload names no object.
  void StallUploads();
  void SealWithoutObject();
  /// What gRPC does without threads: the next calls of CreateUpload are RESOURCE_EXHAUSTED without a reason.
  void RefuseUploads(int calls);
  LeaseView View(const std::string& uid);
  std::set<std::string> Instances();
  bool SawDraining();
  /// The newest one.
  worker::v1::SynchronizeRequest LastRequest();
  worker::v1::LeaseTiming timing;
  /// Of the leases added from now on.
  v1::Quantization quantization = v1::QUANTIZATION_NONE;

  /// Waits until `done` holds for the lease; false after a minute.
  bool WaitFor(const std::string& uid, const std::function<bool(const LeaseView&)>& done);
  bool WaitForState(const std::string& uid, const std::string& state);

  grpc::Status Synchronize(grpc::ServerContext*, const worker::v1::SynchronizeRequest*,
                           worker::v1::SynchronizeResponse*) override;
  grpc::Status CommitAttempt(grpc::ServerContext*, const worker::v1::CommitAttemptRequest*,
                             worker::v1::CommitAttemptResponse*) override;
  grpc::Status CreateUpload(grpc::ServerContext*, const v1::CreateUploadRequest*, v1::Upload*) override;
  grpc::Status GetUpload(grpc::ServerContext*, const v1::GetUploadRequest*, v1::Upload*) override;
  grpc::Status WriteUpload(grpc::ServerContext*, grpc::ServerReader<v1::WriteUploadRequest>*, v1::Upload*) override;
  grpc::Status FinishUpload(grpc::ServerContext*, const v1::FinishUploadRequest*, v1::Upload*) override;
  grpc::Status GetDownload(grpc::ServerContext*, const v1::GetDownloadRequest*, v1::GetDownloadResponse*) override;
  grpc::Status Download(grpc::ServerContext*, const v1::DownloadRequest*,
                        grpc::ServerWriter<v1::DownloadResponse>*) override;

 private:
  struct Lease {
    worker::v1::Lease lease;
    LeaseView view;
    bool over = false;  // fenced, ended and taken in, or committed
    bool fenced = false;
    bool repeat_start = false;
    std::optional<worker::v1::StopLease::Reason> stop;
  };
  struct UploadState {
    v1::Upload upload;
    std::string bytes;
  };
  /// Without its epoch.
  Lease MakeTrainLease(const std::string& script, int ranks, const v1::File* checkpoint, const v1::File* before);
  void TakeItems(Lease& lease, const google::protobuf::RepeatedPtrField<worker::v1::ReportItem>& items);
  void TakeReport(const worker::v1::AttemptReport& report);
  bool Breaks(int64_t bytes);
  /// Where the gang of the lease meets, once all its parts are ready.
  std::string RendezvousOf(const Lease& lease) SBORA_REQUIRES(mutex_);

  Mutex mutex_;
  std::map<std::string, Lease> leases_;
  std::map<std::string, std::string> objects_;
  std::map<std::string, UploadState> uploads_;
  std::set<std::string> instances_;
  bool silent_ = false;
  bool saw_draining_ = false;
  worker::v1::SynchronizeRequest last_request_;
  std::optional<int64_t> break_after_;
  bool uploads_stall_ = false;
  bool seals_without_object_ = false;
  int refused_uploads_ = 0;
  int64_t next_epoch_ = 1;
  int64_t sequence_ = 0;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace sbora::agent
