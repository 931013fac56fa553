#include "tests/integration/agent/fake_coordinator.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <utility>

#include "common/grpc/status_convert.h"
#include "common/ids.h"
#include "common/sha256.h"

namespace sbora::agent {
namespace wp = worker::v1;
namespace {

std::string StateName(const wp::AttemptReport& report) {
  switch (report.state_case()) {
    case wp::AttemptReport::kPreparing: return "preparing";
    case wp::AttemptReport::kRunning: return "running";
    case wp::AttemptReport::kStopping: return "stopping";
    case wp::AttemptReport::kEnded: return "ended";
    case wp::AttemptReport::kCommitting: return "committing";
    case wp::AttemptReport::STATE_NOT_SET: return "none";
  }
  return "none";
}

}  // namespace

FakeCoordinator::FakeCoordinator() {
  timing.set_renew_every_seconds(0.1);
  // Quick where a test waits for it; otherwise a machine that stands still must not look like a dead one.
  timing.set_self_fence_seconds(30);
  timing.set_lease_seconds(60);
  timing.set_hang_seconds(60);
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(static_cast<wp::WorkerService::Service*>(this));
  builder.RegisterService(static_cast<v1::TransferService::Service*>(this));
  server_ = builder.BuildAndStart();
}

FakeCoordinator::~FakeCoordinator() { server_->Shutdown(std::chrono::system_clock::now()); }

std::string FakeCoordinator::AddObject(const std::string& bytes) {
  MutexLock lock(mutex_);
  const std::string object = "projects/default/objects/" + NewUuid7();
  objects_[object] = bytes;
  return object;
}

v1::File FakeCoordinator::FileOf(const std::string& path, const std::string& bytes) {
  v1::File file;
  file.set_path(path);
  file.set_size_bytes(static_cast<int64_t>(bytes.size()));
  file.set_sha256(Sha256Hex(bytes));
  file.set_object(AddObject(bytes));
  return file;
}

void FakeCoordinator::CorruptObject(const std::string& object) {
  MutexLock lock(mutex_);
  objects_.at(object).back() ^= 1;
}

std::string FakeCoordinator::ObjectBytes(const std::string& object) {
  MutexLock lock(mutex_);
  return objects_.at(object);
}

std::string FakeCoordinator::AddTrainLease(const std::string& script, int ranks, const v1::File* checkpoint,
                                           const v1::File* before) {
  Lease lease = MakeTrainLease(script, ranks, checkpoint, before);
  const std::string uid = lease.lease.id().uid();
  MutexLock lock(mutex_);
  lease.lease.mutable_id()->set_epoch(next_epoch_++);
  leases_[uid] = std::move(lease);
  return uid;
}

FakeCoordinator::Lease FakeCoordinator::MakeTrainLease(const std::string& script, int ranks, const v1::File* checkpoint,
                                                       const v1::File* before) {
  Lease lease;
  lease.lease.mutable_id()->set_uid(NewUuid7());
  lease.lease.set_resource("projects/default/fineTuningJobs/job");
  lease.lease.set_project("projects/default");
  lease.lease.set_attempt(1);
  for (int i = 0; i < ranks; ++i) lease.lease.add_slots("cpu-" + std::to_string(i));
  auto* task = lease.lease.mutable_task();
  auto* model = task->add_inputs();
  model->set_name("model");
  *model->add_files() = FileOf("config.json", "{\"model\": 1}");
  *model->add_files() = FileOf("model.safetensors", std::string(3'000'000, 'w'));
  auto* data = task->add_inputs();
  data->set_name("dataset");
  *data->add_files() = FileOf("data.jsonl", "{}\n");
  if (checkpoint != nullptr) {
    auto* group = task->add_inputs();
    group->set_name("checkpoint");
    *group->add_files() = *checkpoint;
  }
  if (before != nullptr) {
    auto* group = task->add_inputs();
    group->set_name("checkpoint_before");
    *group->add_files() = *before;
  }
  task->mutable_train()->mutable_spec()->set_model(script);
  task->mutable_train()->mutable_spec()->mutable_adapter()->set_method(v1::METHOD_SBORA_FA);
  task->mutable_train()->mutable_spec()->set_quantization(quantization);
  *lease.lease.mutable_timing() = timing;
  return lease;
}

std::vector<std::string> FakeCoordinator::AddGang(const std::string& script, int parts) {
  std::vector<Lease> made;
  for (int i = 0; i < parts; ++i) made.push_back(MakeTrainLease(script, 1, nullptr, nullptr));
  std::vector<std::string> uids;
  MutexLock lock(mutex_);
  for (int i = 0; i < parts; ++i) {
    Lease& lease = made[static_cast<size_t>(i)];
    lease.lease.mutable_id()->set_epoch(next_epoch_);
    lease.lease.set_slots(0, "cpu-" + std::to_string(i));
    lease.lease.set_first_rank(i);
    lease.lease.set_world_size(parts);
    uids.push_back(lease.lease.id().uid());
    leases_[uids.back()] = std::move(lease);
  }
  ++next_epoch_;
  return uids;
}

std::string FakeCoordinator::RendezvousOf(const Lease& lease) {
  std::string where;
  for (const auto& [uid, other] : leases_) {
    if (other.lease.id().epoch() != lease.lease.id().epoch()) continue;
    if (!other.view.ready) return "";
    if (other.lease.first_rank() == 0) where = other.view.rendezvous;
  }
  return where;
}

void FakeCoordinator::Stop(const std::string& uid, wp::StopLease::Reason reason) {
  MutexLock lock(mutex_);
  leases_.at(uid).stop = reason;
}

void FakeCoordinator::Fence(const std::string& uid) {
  MutexLock lock(mutex_);
  leases_.at(uid).fenced = true;
}

void FakeCoordinator::RepeatStart(const std::string& uid) {
  MutexLock lock(mutex_);
  leases_.at(uid).repeat_start = true;
}

void FakeCoordinator::set_silent(bool silent) {
  MutexLock lock(mutex_);
  silent_ = silent;
}

void FakeCoordinator::BreakNextTransfer(int64_t after_bytes) {
  MutexLock lock(mutex_);
  break_after_ = after_bytes;
}

void FakeCoordinator::StallUploads() {
  MutexLock lock(mutex_);
  uploads_stall_ = true;
}

void FakeCoordinator::SealWithoutObject() {
  MutexLock lock(mutex_);
  seals_without_object_ = true;
}

void FakeCoordinator::RefuseUploads(int calls) {
  MutexLock lock(mutex_);
  refused_uploads_ = calls;
}

FakeCoordinator::LeaseView FakeCoordinator::View(const std::string& uid) {
  MutexLock lock(mutex_);
  return leases_.at(uid).view;
}

std::set<std::string> FakeCoordinator::Instances() {
  MutexLock lock(mutex_);
  return instances_;
}

bool FakeCoordinator::SawDraining() {
  MutexLock lock(mutex_);
  return saw_draining_;
}

wp::SynchronizeRequest FakeCoordinator::LastRequest() {
  MutexLock lock(mutex_);
  return last_request_;
}

bool FakeCoordinator::WaitFor(const std::string& uid, const std::function<bool(const LeaseView&)>& done) {
  const MonotonicTime limit = SystemClock().Now() + std::chrono::minutes(1);
  while (SystemClock().Now() < limit) {
    if (done(View(uid))) return true;
    SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(10), {});
  }
  return false;
}

bool FakeCoordinator::WaitForState(const std::string& uid, const std::string& state) {
  return WaitFor(uid, [&](const LeaseView& view) { return !view.states.empty() && view.states.back() == state; });
}

void FakeCoordinator::TakeItems(Lease& lease, const google::protobuf::RepeatedPtrField<wp::ReportItem>& items) {
  for (const auto& item : items) lease.view.items[item.sequence()] = item;
}

void FakeCoordinator::TakeReport(const wp::AttemptReport& report) {
  const auto found = leases_.find(report.lease().uid());
  if (found == leases_.end()) return;
  Lease& lease = found->second;
  lease.view.ready = report.ready();
  lease.view.rendezvous = report.rendezvous();
  const std::string state = StateName(report);
  if (lease.view.states.empty() || lease.view.states.back() != state) lease.view.states.push_back(state);
  TakeItems(lease, report.items());
  if (report.has_ended()) {
    lease.view.ended = report.ended();
    lease.over = true;
  }
}

grpc::Status FakeCoordinator::Synchronize(grpc::ServerContext* context, const wp::SynchronizeRequest* request,
                                          wp::SynchronizeResponse* response) {
  // A short long poll; cancelled calls return early.
  for (int i = 0; i < 5 && !context->IsCancelled(); ++i) {
    SystemClock().SleepUntil(SystemClock().Now() + std::chrono::milliseconds(10), {});
  }
  MutexLock lock(mutex_);
  if (silent_) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "cut off");
  instances_.insert(request->instance_uuid());
  saw_draining_ = saw_draining_ || request->draining();
  last_request_ = *request;
  std::set<std::string> reported;
  for (const auto& report : request->attempts()) {
    reported.insert(report.lease().uid());
    TakeReport(report);
  }
  response->set_sequence(++sequence_);
  for (auto& [uid, lease] : leases_) {
    if (lease.over) continue;
    if (lease.fenced) {
      auto* stop = response->add_stop();
      *stop->mutable_id() = lease.lease.id();
      stop->set_reason(wp::StopLease::REASON_FENCED);
      continue;
    }
    if (!reported.contains(uid) || lease.repeat_start) {
      lease.view.duplicate_start_offered = lease.view.duplicate_start_offered || reported.contains(uid);
      *response->add_start() = lease.lease;
    }
    if (!reported.contains(uid)) continue;
    auto* renewed = response->add_renewed();
    *renewed->mutable_id() = lease.lease.id();
    renewed->set_acknowledged_item(lease.view.items.empty() ? 0 : lease.view.items.rbegin()->first);
    if (lease.lease.world_size() > 0) renewed->set_rendezvous(RendezvousOf(lease));
    if (lease.stop) {
      auto* stop = response->add_stop();
      *stop->mutable_id() = lease.lease.id();
      stop->set_reason(*lease.stop);
    }
  }
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::CommitAttempt(grpc::ServerContext*, const wp::CommitAttemptRequest* request,
                                            wp::CommitAttemptResponse*) {
  MutexLock lock(mutex_);
  if (silent_) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "cut off");
  Lease& lease = leases_.at(request->lease().uid());
  ++lease.view.commits;
  if (lease.fenced) return ToGrpc(FailedPrecondition("LEASE_FENCED", "another attempt holds the lease"));
  TakeItems(lease, request->items());
  lease.view.files = {request->files().begin(), request->files().end()};
  lease.view.committed = true;
  lease.over = true;
  return grpc::Status::OK;
}

bool FakeCoordinator::Breaks(int64_t bytes) {
  MutexLock lock(mutex_);
  if (!break_after_ || bytes < *break_after_) return false;
  break_after_.reset();
  return true;
}

grpc::Status FakeCoordinator::CreateUpload(grpc::ServerContext*, const v1::CreateUploadRequest* request,
                                           v1::Upload* upload) {
  MutexLock lock(mutex_);
  if (refused_uploads_ > 0) {
    --refused_uploads_;
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "no thread is free");
  }
  upload->set_name("projects/default/uploads/" + NewUuid7());
  upload->set_size_bytes(request->size_bytes());
  upload->set_sha256(request->sha256());
  uploads_[upload->name()].upload = *upload;
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::GetUpload(grpc::ServerContext*, const v1::GetUploadRequest* request, v1::Upload* upload) {
  MutexLock lock(mutex_);
  *upload = uploads_.at(request->name()).upload;
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::WriteUpload(grpc::ServerContext*, grpc::ServerReader<v1::WriteUploadRequest>* reader,
                                          v1::Upload* upload) {
  v1::WriteUploadRequest request;
  std::string name;
  while (reader->Read(&request)) {
    if (!request.name().empty()) name = request.name();
    int64_t received = 0;
    {
      MutexLock lock(mutex_);
      if (uploads_stall_) return grpc::Status::OK;
      UploadState& state = uploads_.at(name);
      if (request.offset() != state.upload.received_bytes()) {
        return ToGrpc(OutOfRange("UPLOAD_OFFSET", "expected " + std::to_string(state.upload.received_bytes())));
      }
      state.bytes += request.data();
      received = static_cast<int64_t>(state.bytes.size());
      state.upload.set_received_bytes(received);
      *upload = state.upload;
    }
    if (Breaks(received)) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "broken on purpose");
  }
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::FinishUpload(grpc::ServerContext*, const v1::FinishUploadRequest* request,
                                           v1::Upload* upload) {
  MutexLock lock(mutex_);
  UploadState& state = uploads_.at(request->name());
  if (Sha256Hex(state.bytes) != state.upload.sha256()) return ToGrpc(DataLoss("HASH_MISMATCH", "other bytes"));
  state.upload.set_finished(true);
  *upload = state.upload;
  if (seals_without_object_) return grpc::Status::OK;
  state.upload.set_object("projects/default/objects/" + NewUuid7());
  objects_[state.upload.object()] = state.bytes;
  *upload = state.upload;
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::GetDownload(grpc::ServerContext*, const v1::GetDownloadRequest*, v1::GetDownloadResponse*) {
  return grpc::Status::OK;
}

grpc::Status FakeCoordinator::Download(grpc::ServerContext*, const v1::DownloadRequest* request,
                                       grpc::ServerWriter<v1::DownloadResponse>* writer) {
  std::string bytes;
  {
    MutexLock lock(mutex_);
    const auto found = objects_.find(request->object());
    if (found == objects_.end()) return ToGrpc(NotFound("OBJECT_NOT_FOUND", "no object " + request->object()));
    bytes = found->second;
  }
  constexpr size_t kChunk = 256 * 1024;
  for (size_t at = static_cast<size_t>(request->offset()); at < bytes.size(); at += kChunk) {
    v1::DownloadResponse response;
    response.set_data(bytes.substr(at, kChunk));
    if (!writer->Write(response)) return grpc::Status::CANCELLED;
    if (Breaks(static_cast<int64_t>(at + kChunk))) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "broken on purpose");
  }
  return grpc::Status::OK;
}

}  // namespace sbora::agent
