#include "server/services/worker_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "common/ids.h"
#include "common/status_macros.h"
#include "common/text.h"
#include "core/lease.h"
#include "core/proto/stable_bytes.h"
#include "server/services/admin_service.h"
#include "server/services/requests.h"
#include "server/services/rpc.h"
#include "server/services/stored_files.h"

namespace sbora::server {
namespace {

constexpr std::string_view kSyncMethod = "sbora.worker.v1.WorkerService/Synchronize";
constexpr size_t kMaxEventBytes = 8 * 1024;
constexpr size_t kMaxTypeBytes = 64;
constexpr size_t kMaxPhaseBytes = 256;
constexpr size_t kMaxRendezvousBytes = core::kMaxGangAddressBytes + 8;  // with brackets and a port

Status CheckGangAddress(const std::string& address) {
  if (core::IsGangAddress(address)) return OkStatus();
  const std::string rule = fmt::format("must be a host name or an address without a port, of at most {} bytes", core::kMaxGangAddressBytes);
  return InvalidArgument("BAD_GANG_ADDRESS", fmt::format("gang_address \"{}\" has {} bytes; it {}",
                                                         CutText(address, core::kMaxGangAddressBytes), address.size(), rule))
      .WithViolation("gang_address", rule);
}

Status CheckSync(const worker::v1::SynchronizeRequest& request) {
  SBORA_RETURN_IF_ERROR(CheckResourceId(request.worker(), "worker"));
  if (!IsUuid(request.instance_uuid())) {
    return InvalidArgument("BAD_INSTANCE", "instance_uuid is no UUID").WithViolation("instance_uuid", "must be a UUID made at the start of the agent");
  }
  SBORA_RETURN_IF_ERROR(CheckGangAddress(request.gang_address()));
  if (request.protocol_min() <= kWorkerProtocolMax && request.protocol_max() >= kWorkerProtocolMin) return OkStatus();
  return FailedPrecondition("PROTOCOL_VERSION", fmt::format("the agent speaks protocol {} to {}, this server {} to {}; upgrade the older one",
                                                            request.protocol_min(), request.protocol_max(), kWorkerProtocolMin,
                                                            kWorkerProtocolMax))
      .WithMetadata("server_min", std::to_string(kWorkerProtocolMin))
      .WithMetadata("server_max", std::to_string(kWorkerProtocolMax));
}

/// What outlives one Synchronize call: the agent may go away while the scheduler holds it. Shared by gRPC's reactor, the
/// pool task and the scheduler's callback.
struct SyncState {
  Mutex mutex;
  uint64_t handle SBORA_GUARDED_BY(mutex) = 0;
  bool cancelled SBORA_GUARDED_BY(mutex) = false;
};

class SyncCall final : public grpc::ServerUnaryReactor {
 public:
  SyncCall(const ServiceContext& services, const grpc::CallbackServerContext& context, const worker::v1::SynchronizeRequest* request,
           worker::v1::SynchronizeResponse* response)
      : services_(services), response_(response), start_(services.clock->Now()), state_(std::make_shared<SyncState>()) {
    const Status allowed = BeginCall(services_, context, kSyncMethod);
    if (allowed.ok()) {
      services_.pool->Submit([this, request, state = state_, &services] { Run(*request, state, services); });
    } else {
      End(allowed);
    }
  }

  void OnCancel() override {
    uint64_t handle = 0;
    {
      MutexLock lock(state_->mutex);
      state_->cancelled = true;
      handle = state_->handle;
    }
    if (handle != 0) services_.coordinator->CancelSync(handle);
  }
  void OnDone() override { delete this; }

 private:
  void End(const Status& status) { Finish(FinishCall(services_, kSyncMethod, start_, status)); }

  /// After Synchronize was called, this object may be gone at any time: only `state` and `services` may be used.
  void Run(const worker::v1::SynchronizeRequest& request, const std::shared_ptr<SyncState>& state, const ServiceContext& services) {
    SyncRequest converted;
    const Status read = Guarded(kSyncMethod, [&]() -> Status {
      SBORA_ASSIGN_OR_RETURN(converted, SyncRequestOf(services, request));
      return OkStatus();
    });
    if (!read.ok()) return End(read);
    const uint64_t handle = services.coordinator->Synchronize(std::move(converted), [this](StatusOr<SyncResponse> answer) {
      if (!answer.ok()) return End(answer.status());
      End(Guarded(kSyncMethod, [&] { return FillResponse(*answer, services_.timing, *response_); }));
    });
    bool cancelled = false;
    {
      MutexLock lock(state->mutex);
      state->handle = handle;
      cancelled = state->cancelled;
    }
    if (cancelled) services.coordinator->CancelSync(handle);
  }

  const ServiceContext& services_;
  worker::v1::SynchronizeResponse* const response_;
  const MonotonicTime start_;
  const std::shared_ptr<SyncState> state_;
};

StatusOr<CheckpointItem> CheckpointItemOf(const ServiceContext& services, const worker::v1::CheckpointReport& from) {
  CheckpointItem checkpoint;
  checkpoint.step = from.step();
  worker::v1::InputGroup group;
  group.set_name("checkpoint");
  for (const v1::File& file : from.files()) {
    SBORA_ASSIGN_OR_RETURN(const ObjectRow object, FindObject(services, file.object()));
    if (object.size_bytes != file.size_bytes() || object.sha256 != file.sha256()) {
      return InvalidArgument("BAD_CHECKPOINT", fmt::format("{} is reported with {} bytes and SHA-256 {}, and {} has {} bytes and {}", file.path(),
                                                           file.size_bytes(), file.sha256(), file.object(), object.size_bytes,
                                                           object.sha256));
    }
    checkpoint.object_uids.push_back(object.uid);
    *group.add_files() = file;
  }
  checkpoint.files = core::StableBytes(group);
  if (from.has_validation_loss()) checkpoint.validation_loss = from.validation_loss();
  return checkpoint;
}

StatusOr<ReportItem> ReportItemOf(const ServiceContext& services, const worker::v1::ReportItem& from) {
  ReportItem item;
  item.sequence = from.sequence();
  switch (from.item_case()) {
    case worker::v1::ReportItem::kMetric:
      item.item = MetricItem{from.metric().step(), core::StableBytes(from.metric())};
      return item;
    case worker::v1::ReportItem::kEvent: {
      const v1::FineTuningEvent& event = from.event();
      const int64_t time_ms = event.has_time() ? event.time().seconds() * 1000 + event.time().nanos() / 1'000'000
                                               : ToUnixMillis(services.clock->WallNow());
      item.item = EventItem{time_ms, std::max<int32_t>(1, event.level()), CutText(event.type(), kMaxTypeBytes),
                            CutText(event.message(), kMaxEventBytes)};
      return item;
    }
    case worker::v1::ReportItem::kCheckpoint: {
      StatusOr<CheckpointItem> checkpoint = CheckpointItemOf(services, from.checkpoint());
      if (checkpoint.ok()) {
        item.item = std::move(checkpoint).value();
        return item;
      }
      if (IsRetryable(checkpoint.status().code())) return checkpoint.status();
      // Refused for good, the agent would report it for ever and lose all its leases over it: it becomes a warning.
      item.item = EventItem{ToUnixMillis(services.clock->WallNow()), v1::FineTuningEvent::LEVEL_WARN, "CHECKPOINT_REFUSED",
                            CutText(fmt::format("checkpoint of step {}: {}", from.checkpoint().step(), checkpoint.status().ToString()),
                                    kMaxEventBytes)};
      return item;
    }
    case worker::v1::ReportItem::ITEM_NOT_SET: break;
  }
  return InvalidArgument("EMPTY_REPORT", fmt::format("report item {} holds nothing", from.sequence()))
      .WithViolation("items.item", "must be a metric, an event or a checkpoint");
}

StatusOr<AttemptReport> AttemptReportOf(const ServiceContext& services, const worker::v1::AttemptReport& from) {
  AttemptReport report;
  report.lease = {from.lease().uid(), from.lease().epoch()};
  switch (from.state_case()) {
    case worker::v1::AttemptReport::kPreparing: {
      v1::JobProgress progress;
      progress.set_phase(CutText(from.preparing().phase(), kMaxPhaseBytes));
      report.phase = AttemptPhase::kPreparing;
      report.progress = core::StableBytes(progress);
      break;
    }
    case worker::v1::AttemptReport::kRunning:
      report.phase = AttemptPhase::kRunning;
      if (from.running().has_progress()) report.progress = core::StableBytes(from.running().progress());
      report.device = from.running().device();
      break;
    case worker::v1::AttemptReport::kStopping: report.phase = AttemptPhase::kStopping; break;
    case worker::v1::AttemptReport::kCommitting: report.phase = AttemptPhase::kCommitting; break;
    case worker::v1::AttemptReport::kEnded:
      report.phase = AttemptPhase::kEnded;
      report.reason = static_cast<core::TerminationReason>(from.ended().reason());
      if (!v1::TerminationReason_IsValid(from.ended().reason())) report.reason = core::TerminationReason::kInternal;
      report.failure = {from.ended().failure().code(), CutText(from.ended().failure().reason(), kMaxTypeBytes),
                        CutText(from.ended().failure().message(), kMaxEventBytes)};
      break;
    case worker::v1::AttemptReport::STATE_NOT_SET:
      return InvalidArgument("EMPTY_REPORT", fmt::format("the report of lease {} has no state", from.lease().uid()))
          .WithViolation("state", "must be set");
  }
  SBORA_ASSIGN_OR_RETURN(report.items, ReportItemsOf(services, from.items()));
  report.ready = from.ready();
  report.rendezvous = CutText(from.rendezvous(), kMaxRendezvousBytes);
  return report;
}

Status FillLease(const StartDecision& from, const core::LeaseTiming& timing, worker::v1::Lease& to) {
  to.mutable_id()->set_uid(from.lease.uid);
  to.mutable_id()->set_epoch(from.lease.epoch);
  to.set_resource(from.resource);
  to.set_project(core::ProjectName(from.project));
  to.set_attempt(from.attempt);
  for (const std::string& slot : from.slots) to.add_slots(slot);
  to.set_first_rank(from.first_rank);
  to.set_world_size(from.world_size);
  SBORA_RETURN_IF_ERROR(ParseStored(from.payload->task, "task", *to.mutable_task()));
  if (from.checkpoint_step >= 0 && !from.checkpoint_files.empty()) {
    SBORA_RETURN_IF_ERROR(ParseStored(from.checkpoint_files, "checkpoint", *to.mutable_task()->add_inputs()));
  }
  if (!from.older_checkpoint_files.empty()) {
    worker::v1::InputGroup& before = *to.mutable_task()->add_inputs();
    SBORA_RETURN_IF_ERROR(ParseStored(from.older_checkpoint_files, "checkpoint", before));
    before.set_name("checkpoint_before");
  }
  const auto seconds = [](Duration duration) { return std::chrono::duration<double>(duration).count(); };
  to.mutable_timing()->set_renew_every_seconds(seconds(timing.renew_every));
  to.mutable_timing()->set_self_fence_seconds(seconds(timing.self_fence));
  to.mutable_timing()->set_lease_seconds(seconds(timing.lease));
  to.mutable_timing()->set_hang_seconds(seconds(timing.hang));
  return OkStatus();
}

}  // namespace

StatusOr<std::vector<ReportItem>> ReportItemsOf(const ServiceContext& services,
                                                const google::protobuf::RepeatedPtrField<worker::v1::ReportItem>& items) {
  std::vector<ReportItem> converted;
  for (const worker::v1::ReportItem& from : items) {
    SBORA_ASSIGN_OR_RETURN(ReportItem item, ReportItemOf(services, from));
    converted.push_back(std::move(item));
  }
  return converted;
}

StatusOr<SyncRequest> SyncRequestOf(const ServiceContext& services, const worker::v1::SynchronizeRequest& request) {
  SBORA_RETURN_IF_ERROR(CheckSync(request));
  SyncRequest sync;
  sync.worker = request.worker();
  sync.instance_uuid = request.instance_uuid();
  sync.version = request.version();
  sync.host = request.host();
  for (const worker::v1::Slot& slot : request.slots()) {
    sync.slots.push_back({slot.id(), slot.device() == "cuda" ? DeviceKind::kCuda : DeviceKind::kCpu});
  }
  sync.gpus.assign(request.gpus().begin(), request.gpus().end());
  sync.draining = request.draining();
  sync.gang_address = request.gang_address();
  sync.acknowledged_sequence = request.acknowledged_sequence();
  for (int i = 0; i < request.attempts_size(); ++i) {
    StatusOr<AttemptReport> report = AttemptReportOf(services, request.attempts(i));
    if (!report.ok()) return PrefixFields(report.status(), fmt::format("attempts[{}].", i));
    sync.attempts.push_back(*std::move(report));
  }
  return sync;
}

Status FillResponse(const SyncResponse& from, const core::LeaseTiming& timing, worker::v1::SynchronizeResponse& to) {
  to.set_sequence(from.sequence);
  for (const StartDecision& start : from.start) SBORA_RETURN_IF_ERROR(FillLease(start, timing, *to.add_start()));
  for (const RenewDecision& renewed : from.renewed) {
    worker::v1::RenewedLease& lease = *to.add_renewed();
    lease.mutable_id()->set_uid(renewed.lease.uid);
    lease.mutable_id()->set_epoch(renewed.lease.epoch);
    lease.set_acknowledged_item(renewed.acknowledged_item);
    lease.set_rendezvous(renewed.rendezvous);
  }
  for (const StopDecision& stop : from.stop) {
    worker::v1::StopLease& lease = *to.add_stop();
    lease.mutable_id()->set_uid(stop.lease.uid);
    lease.mutable_id()->set_epoch(stop.lease.epoch);
    lease.set_reason(static_cast<worker::v1::StopLease::Reason>(stop.reason));
  }
  const auto nanos = std::chrono::duration_cast<std::chrono::nanoseconds>(from.next_call_after).count();
  to.mutable_next_call_after()->set_seconds(nanos / 1'000'000'000);
  to.mutable_next_call_after()->set_nanos(static_cast<int>(nanos % 1'000'000'000));
  to.set_drain(from.drain);
  return OkStatus();
}

grpc::ServerUnaryReactor* WorkerServiceImpl::Synchronize(grpc::CallbackServerContext* context,
                                                         const worker::v1::SynchronizeRequest* request,
                                                         worker::v1::SynchronizeResponse* response) {
  return new SyncCall(services_, *context, request, response);  // deletes itself in OnDone
}

grpc::Status WorkerServiceImpl::CommitAttempt(grpc::ServerContext* context, const worker::v1::CommitAttemptRequest* request,
                                              worker::v1::CommitAttemptResponse*) {
  return Unary(services_, *context, "sbora.worker.v1.WorkerService/CommitAttempt",
               [&](const Call&) { return CommitTask(services_, *request); });
}

}  // namespace sbora::server
